import Testing

/// The real daemon and real clients. One test at a time: some start hundreds of processes, and all of them look at
/// what happens in time.
@Suite(.serialized) enum EndToEnd {}

/// More of them, one at a time beside the others: these wait more than they work.
@Suite(.serialized) enum EndToEndBeside {}
