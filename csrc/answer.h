// Owns: one HTTP/1.1 answer as its bytes come in, and when each server-sent event in it was complete. Bytes and times in, facts out; how the
// bytes are cut into pieces changes nothing but times. Must not know sockets, or what events say.
// Sources: RFC 9112 (framing), the HTML standard's server-sent events (lines of fields, an empty line ends an event).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace slip {

class Answer {
 public:
    // Takes bytes that came at `now`, in seconds. Returns how many of them are this answer's: fewer than given when it is complete or wrong.
    int64_t feed(std::string_view bytes, double now);
    void close();  // the connection was closed; the end of an answer that has no other

    bool begun() const { return status != 0 || !line_.empty(); }
    bool complete() const { return part_ == Part::done; }

    int status = 0;             // 0 until it is known
    bool keep = true;           // the connection can be used again after it
    std::vector<double> times;  // of the events, [DONE] left out
    std::string last;           // the data of the last of these
    std::string text;           // the beginning of a body that is no event stream
    std::string wrong;          // why it cannot be understood; empty so far

 private:
    enum class Part { status, header, size, chunk, gap, trailer, length, rest, done };
    int64_t gather(std::string_view bytes);
    void take_line();
    void take_status();
    void take_header();
    void end_of_headers();
    void take_size();
    void body(std::string_view bytes, double now);
    void take_field(double now);

    Part part_ = Part::status;
    std::string line_;    // of the head or of a chunk's, not complete yet
    std::string field_;   // a line of the event stream, not complete yet
    std::string event_;   // data of the event that has begun
    bool chunked_ = false, sized_ = false, stream_ = false;
    uint64_t left_ = 0;   // bytes of the chunk or body that are still to come
    int64_t head_ = 0;    // bytes of the head so far
};

}  // namespace slip
