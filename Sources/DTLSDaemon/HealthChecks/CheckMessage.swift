import Primitives

/// An order of the main process to the checker: check one backend once.
struct CheckQuestion: Codable, Equatable {
    /// The answer has the same.
    var number: UInt64
    var address: Backend.Address
    var check: HealthCheck
}

/// The checker's answer to a ``CheckQuestion``.
struct CheckAnswer: Codable, Equatable {
    enum Outcome: Codable, Equatable {
        case passed
        /// The backend is at fault; why.
        case failed(String)
        /// There was no check, since this machine gives no socket for it; why.
        case impossible(String)
    }

    var number: UInt64
    var outcome: Outcome
}
