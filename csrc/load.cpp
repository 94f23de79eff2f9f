#include "load.h"

#include "drive.h"

#if defined(__linux__)
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <ctime>
#include <memory>

namespace slip {
namespace {

constexpr double TICK = 0.1;     // seconds between two looks at patience and the caller's wishes
constexpr int READ = 64 << 10;   // bytes of one read

double clock_seconds(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Address {
    sockaddr_storage storage{};
    socklen_t size = 0;
};

Address address_of(const Aim& aim) {
    Address out;
    auto* four = reinterpret_cast<sockaddr_in*>(&out.storage);
    auto* six = reinterpret_cast<sockaddr_in6*>(&out.storage);
    if (inet_pton(AF_INET, aim.host.c_str(), &four->sin_addr) == 1) {
        four->sin_family = AF_INET;
        four->sin_port = htons(static_cast<uint16_t>(aim.port));
        out.size = sizeof *four;
    } else if (inet_pton(AF_INET6, aim.host.c_str(), &six->sin6_addr) == 1) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(static_cast<uint16_t>(aim.port));
        out.size = sizeof *six;
    } else {
        refuse("fire: host " + aim.host + " is not an address in numbers");
    }
    return out;
}

struct Client {
    int socket = -1;
    int64_t shot = -1;    // the request it is busy with; -1: none
    size_t written = 0;   // bytes of it
    bool used = false;    // the connection has carried an answer: the server may close it at any moment without being at fault
    double heard = 0;     // when something last came or went
};

class Gunner {
 public:
    Gunner(const Aim& aim, const std::vector<Shot>& shots) : aim_(aim), shots_(shots), address_(address_of(aim)) {
        poll_ = epoll_create1(EPOLL_CLOEXEC);
        if (poll_ < 0) refuse(std::string("fire: epoll: ") + std::strerror(errno));
        clients_.resize(static_cast<size_t>(aim.clients));
        volley_.reports.resize(shots.size());
    }
    ~Gunner() {
        for (auto& client : clients_) drop(client);
        close(poll_);
    }

    Volley run(const std::function<void()>& idle) {
        const double cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID);
        begun_ = clock_seconds(CLOCK_MONOTONIC);
        double looked = 0;
        while (done_ < shots_.size()) {
            now_ = clock_seconds(CLOCK_MONOTONIC) - begun_;
            if (now_ >= aim_.limit) break;
            if (now_ - looked >= TICK) {
                looked = now_;
                idle();
                look_after();
            }
            begin_due();
            if (done_ < shots_.size()) wait();
        }
        volley_.seconds = now_;
        for (auto& client : clients_)
            if (client.shot >= 0) fail(client, "not complete within the limit of the run");
        for (; next_ < shots_.size(); ++next_) volley_.reports[next_].error = "not begun within the limit of the run";
        volley_.cpu = clock_seconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
        return std::move(volley_);
    }

 private:
    Report& report(const Client& client) { return volley_.reports[static_cast<size_t>(client.shot)]; }

    void begin_due() {
        for (auto& client : clients_) {
            if (next_ == shots_.size() || shots_[next_].due > now_) return;
            if (shots_[next_].after > events_ && done_ < next_) return;  // with nobody left to bring events it begins all the same
            if (client.shot >= 0) continue;
            client.shot = static_cast<int64_t>(next_++);
            report(client).sent = now_;
            begin(client);
        }
    }

    void begin(Client& client) {
        client.written = 0;
        client.heard = now_;
        if (client.socket < 0 && !open(client)) return;
        send_more(client);
    }

    bool open(Client& client) {
        client.used = false;
        client.socket = socket(address_.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (client.socket < 0) return fail(client, std::strerror(errno)), false;
        const int on = 1;
        setsockopt(client.socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (connect(client.socket, reinterpret_cast<const sockaddr*>(&address_.storage), address_.size) < 0 && errno != EINPROGRESS)
            return fail(client, std::strerror(errno)), false;
        watch(client, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
        return true;
    }

    void watch(Client& client, int how, uint32_t events) {
        epoll_event event{};
        event.events = events;
        event.data.ptr = &client;
        if (epoll_ctl(poll_, how, client.socket, &event) < 0) refuse(std::string("fire: epoll: ") + std::strerror(errno));
    }

    void send_more(Client& client) {
        const std::string& request = shots_[static_cast<size_t>(client.shot)].request;
        while (client.written < request.size()) {
            const auto sent = send(client.socket, request.data() + client.written, request.size() - client.written, MSG_NOSIGNAL);
            if (sent >= 0) {
                client.written += static_cast<size_t>(sent);
                client.heard = now_;
            } else if (errno == EAGAIN || errno == ENOTCONN) {  // the second: the connection is being made
                watch(client, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
                return;
            } else if (errno != EINTR) {
                lost(client, std::strerror(errno));
                return;
            }
        }
        watch(client, EPOLL_CTL_MOD, EPOLLIN);
    }

    void wait() {
        const double due = next_ < shots_.size() && shots_[next_].due > now_ ? shots_[next_].due - now_ : TICK;
        epoll_event ready[64];
        const int count = epoll_wait(poll_, ready, 64, static_cast<int>(std::ceil(1e3 * std::min({due, TICK, aim_.limit - now_}))));
        if (count < 0 && errno != EINTR) refuse(std::string("fire: epoll: ") + std::strerror(errno));
        for (int i = 0; i < count; ++i) {
            auto& client = *static_cast<Client*>(ready[i].data.ptr);
            now_ = clock_seconds(CLOCK_MONOTONIC) - begun_;
            if ((ready[i].events & EPOLLOUT) && client.shot >= 0 && client.socket >= 0) send_more(client);
            if ((ready[i].events & ~EPOLLOUT) && client.socket >= 0) receive(client);
        }
    }

    void receive(Client& client) {
        const auto got = recv(client.socket, buffer_, READ, 0);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (client.shot < 0) return drop(client);  // closed between two requests, or a word that nobody asked for
        if (got < 0) return lost(client, std::strerror(errno));
        auto& answer = report(client).answer;
        if (got == 0) {
            if (!answer.begun() && client.used) return again(client);
            answer.close();
        } else {
            client.heard = now_;
            const auto before = answer.times.size();
            const auto own = answer.feed({buffer_, static_cast<size_t>(got)}, now_);
            events_ += static_cast<int64_t>(answer.times.size() - before);
            if (own < got && answer.wrong.empty()) answer.wrong = "bytes after the end of the answer";
        }
        if (!answer.wrong.empty()) fail(client, answer.wrong);
        else if (answer.complete()) finish(client);
    }

    // The connection broke while a request was on it: once more where that may be the end of an old connection.
    void lost(Client& client, const std::string& why) {
        if (client.used && !report(client).answer.begun()) again(client);
        else fail(client, why);
    }

    void again(Client& client) {
        drop(client);
        begin(client);
    }

    void finish(Client& client) {
        const bool whole = client.written == shots_[static_cast<size_t>(client.shot)].request.size();
        report(client).ended = now_;
        client.used = true;
        if (!whole || !report(client).answer.keep) drop(client);
        client.shot = -1;
        ++done_;
    }

    void fail(Client& client, const std::string& why) {
        report(client).error = why;
        report(client).ended = now_;
        drop(client);
        client.shot = -1;
        ++done_;
    }

    void drop(Client& client) {
        if (client.socket >= 0) close(client.socket);  // which also ends its watch
        client.socket = -1;
    }

    void look_after() {
        for (auto& client : clients_)
            if (client.shot >= 0 && now_ - client.heard > aim_.patience) fail(client, "nothing came for too long");
    }

    const Aim& aim_;
    const std::vector<Shot>& shots_;
    const Address address_;
    int poll_ = -1;
    std::vector<Client> clients_;
    Volley volley_;
    size_t next_ = 0, done_ = 0;
    int64_t events_ = 0;
    double begun_ = 0, now_ = 0;
    char buffer_[READ];
};

}  // namespace

Volley fire(const Aim& aim, const std::vector<Shot>& shots, const std::function<void()>& idle) {
    if (aim.clients < 1 || aim.port < 1 || aim.port > 65535) refuse("fire: needs a client, and a port from 1 to 65535");
    return std::make_unique<Gunner>(aim, shots)->run(idle);
}

}  // namespace slip

#else

namespace slip {

Volley fire(const Aim&, const std::vector<Shot>&, const std::function<void()>&) { refuse("fire: load tests need Linux (epoll)"); }

}  // namespace slip

#endif
