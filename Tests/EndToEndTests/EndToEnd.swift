import Testing

// The real daemon and real clients. Tests wait more than they work, so there are four groups side by side, of about the
// same length; in each, one test follows the other.

/// What becomes of datagrams, the handlers' work, and who may send how many.
@Suite(.serialized) enum EndToEnd {}

/// dtlsd as a client, programs of its own, and the examples with the software that they are for.
@Suite(.serialized) enum EndToEndBeside {}

/// Who is let in, and with which certificate, key and session.
@Suite(.serialized) enum EndToEndHandshakes {}

/// Hundreds of clients, strangers, and what is to go on through it all. Not beside each other: they load the machine.
@Suite(.serialized) enum EndToEndCrowds {}
