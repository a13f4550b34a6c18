import Testing

// These tests run the real daemon with real clients. They wait more than they work, so there are four groups, of about
// the same length, that run side by side; within a group one test follows the other.

@Suite("Handlers and limits: what happens to datagrams, and who may send how many", .serialized)
enum EndToEnd {}

@Suite("Client mode, programs, and the examples with the software that they are for", .serialized)
enum EndToEndClientMode {}

@Suite("Handshakes: who is accepted, and with which certificate, key and session", .serialized)
enum EndToEndHandshakes {}

/// These tests load the machine, so none of them runs beside another.
@Suite("Crowds: many clients, garbage, reloads and restarts, and what must go on through them", .serialized)
enum EndToEndCrowds {}
