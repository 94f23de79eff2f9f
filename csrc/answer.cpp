#include "answer.h"

#include <algorithm>
#include <cctype>
#include <limits>

namespace slip {
namespace {

constexpr size_t HEAD = 64 << 10, EVENT = 4 << 20, TEXT = 4 << 10;  // bytes of a head and of an event at most; of a text that are kept

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return out;
}

std::string_view trimmed(std::string_view text) {
    const auto first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
    return first == std::string_view::npos ? std::string_view() : text.substr(first, last - first + 1);
}

// A number in base 10 or 16 that fills `text`; false where it is none or too large.
bool number(std::string_view text, uint64_t base, uint64_t& out) {
    out = 0;
    for (const char c : text) {
        const uint64_t digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
        if (digit >= base || out > (std::numeric_limits<uint64_t>::max() - digit) / base) return false;
        out = out * base + digit;
    }
    return !text.empty();
}

}  // namespace

int64_t Answer::feed(std::string_view bytes, double now) {
    size_t at = 0;
    while (at < bytes.size() && !complete() && wrong.empty()) {
        const auto rest = bytes.substr(at);
        if (part_ == Part::chunk || part_ == Part::length) {
            const auto own = rest.substr(0, static_cast<size_t>(std::min<uint64_t>(left_, rest.size())));
            body(own, now);
            at += own.size();
            left_ -= own.size();
            if (left_ == 0) part_ = part_ == Part::chunk ? Part::gap : Part::done;
        } else if (part_ == Part::rest) {
            body(rest, now);
            at = bytes.size();
        } else {
            at += gather(rest);
        }
    }
    return static_cast<int64_t>(at);
}

void Answer::close() {
    keep = false;
    if (part_ == Part::rest) part_ = Part::done;
    else if (!complete() && wrong.empty()) wrong = "the connection was closed before the answer was complete";
}

// Takes bytes up to the end of a line; returns how many.
int64_t Answer::gather(std::string_view bytes) {
    const auto end = bytes.find('\n');
    const auto own = bytes.substr(0, end == std::string_view::npos ? end : end + 1);
    const bool head = part_ == Part::status || part_ == Part::header;
    head_ = head ? head_ + own.size() : 0;
    if (line_.size() + own.size() > HEAD || head_ > static_cast<int64_t>(HEAD)) {
        wrong = "a head or line above 64 KiB";
        return static_cast<int64_t>(own.size());
    }
    line_ += own;
    if (end != std::string_view::npos) {
        line_.pop_back();
        if (!line_.empty() && line_.back() == '\r') line_.pop_back();
        take_line();
        line_.clear();
    }
    return static_cast<int64_t>(own.size());
}

void Answer::take_line() {
    switch (part_) {
        case Part::status: return take_status();
        case Part::header: return line_.empty() ? end_of_headers() : take_header();
        case Part::size: return take_size();
        case Part::gap:
            if (line_.empty()) part_ = Part::size;
            else wrong = "a chunk is longer than its size";
            return;
        default:  // a trailer: nothing in it matters
            if (line_.empty()) part_ = Part::done;
    }
}

void Answer::take_status() {
    uint64_t code = 0;
    const std::string_view line = line_;
    const bool known = line.rfind("HTTP/1.", 0) == 0 && line.size() >= 12 && line[8] == ' ' && (line.size() == 12 || line[12] == ' ');
    if (!known || !number(line.substr(9, 3), 10, code) || code < 100) {
        wrong = "not an answer of HTTP/1: " + line_.substr(0, 80);
        return;
    }
    status = static_cast<int>(code);
    keep = line[7] != '0';
    part_ = Part::header;
}

void Answer::take_header() {
    const auto colon = line_.find(':');
    if (colon == std::string::npos) {
        wrong = "a header without a colon: " + line_.substr(0, 80);
        return;
    }
    const auto name = lower(trimmed(std::string_view(line_).substr(0, colon)));
    const auto value = lower(trimmed(std::string_view(line_).substr(colon + 1)));
    if (name == "content-length") {
        sized_ = true;
        if (!number(value, 10, left_)) wrong = "content-length: " + value.substr(0, 80);
    } else if (name == "transfer-encoding") {
        chunked_ = value == "chunked";
        if (!chunked_) wrong = "transfer-encoding: only chunked is understood, not " + value.substr(0, 80);
    } else if (name == "content-type") {
        stream_ = value.rfind("text/event-stream", 0) == 0;
    } else if (name == "connection" && value == "close") {
        keep = false;
    }
}

void Answer::end_of_headers() {
    if (status < 200) part_ = Part::status;  // an interim answer; the one that counts follows
    else if (chunked_) part_ = Part::size;
    else if (status == 204 || status == 304 || (sized_ && left_ == 0)) part_ = Part::done;
    else part_ = sized_ ? Part::length : Part::rest;
}

void Answer::take_size() {
    const auto digits = trimmed(std::string_view(line_).substr(0, line_.find(';')));
    if (!number(digits, 16, left_)) wrong = "a chunk without a size: " + line_.substr(0, 80);
    else part_ = left_ ? Part::chunk : Part::trailer;
}

void Answer::body(std::string_view bytes, double now) {
    if (!stream_) {
        text += bytes.substr(0, TEXT - std::min(TEXT, text.size()));
        return;
    }
    while (!bytes.empty() && wrong.empty()) {
        const auto end = bytes.find('\n');
        field_ += bytes.substr(0, end);
        if (field_.size() + event_.size() > EVENT) wrong = "an event above 4 MiB";
        if (end == std::string_view::npos) return;
        bytes.remove_prefix(end + 1);
        if (!field_.empty() && field_.back() == '\r') field_.pop_back();
        take_field(now);
        field_.clear();
    }
}

void Answer::take_field(double now) {
    if (field_.empty()) {  // the event is complete
        if (!event_.empty() && event_ != "[DONE]") {
            times.push_back(now);
            last.swap(event_);
        }
        event_.clear();
    } else if (field_.rfind("data:", 0) == 0) {
        if (!event_.empty()) event_ += '\n';
        event_.append(field_, field_.size() > 5 && field_[5] == ' ' ? 6 : 5, std::string::npos);
    }
}

}  // namespace slip
