// Owns: a load test's clients: prepared requests to one address over HTTP/1.1, from one thread, and when their answers came. Light, since it
// runs beside the server that it measures: one wait for all connections, no text is understood, nothing is copied twice.
// Must not know what requests ask for, or what is made of the times.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "answer.h"

namespace slip {

struct Shot {             // a request and when it may begin: they begin in their order, each by a client that has nothing to do
    std::string request;  // head and body
    double due;           // seconds after the beginning
    int64_t after;        // events of all answers that must have come before, as long as any are under way
};

struct Report {
    double sent = -1, ended = -1;  // seconds after the beginning; -1: never
    Answer answer;
    std::string error;             // empty for a complete answer, of whatever status
};

struct Aim {
    std::string host;  // an address in numbers, IPv4 or IPv6
    int port;
    int clients;       // connections at most
    double patience;   // seconds without a byte after which an answer is given up
    double limit;      // seconds for all of it; what is not done then is given up
};

struct Volley {
    std::vector<Report> reports;  // in the order of the shots
    double seconds = 0, cpu = 0;  // of all of it, and what this thread computed in that time
};

// Sends everything and waits for the answers. `idle` is called several times a second; it ends the run by throwing.
Volley fire(const Aim&, const std::vector<Shot>&, const std::function<void()>& idle);

}  // namespace slip
