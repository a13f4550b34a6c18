import LinuxSystem

/// A message from the main process to the key process.
enum MessageToKeyProcess: Codable, Equatable {
    /// The first one: become this user, where there is one, raise the walls, and begin. The memory that says what workers
    /// may ask comes along (``SignatureAllowance``).
    case begin(user: UserAccount?)
    /// The private keys of a configuration come along, in a memory file. It is answered with
    /// ``MessageFromKeyProcess/ready(set:)`` or ``MessageFromKeyProcess/unusable(set:reason:)``.
    case keys(set: UInt32)
    /// No worker gets that configuration any more. Workers that have it keep its keys.
    case forget(set: UInt32)
    /// A worker's channel comes along.
    /// - `place`: that of the worker in the memory that came first.
    case worker(number: UInt32, place: UInt32)
    /// It is answered with ``MessageFromKeyProcess/pong``.
    case ping
}

/// A message from the key process to the main process.
enum MessageFromKeyProcess: Codable, Equatable {
    case ready(set: UInt32)
    case unusable(set: UInt32, reason: String)
    /// What the kernel does not have of the walls.
    case wallsMissing([String])
    /// A worker has asked for what no worker asks for, and its channel is closed. The reason is the end of a sentence
    /// that begins with "has asked for".
    case violation(worker: UInt32, reason: String)
    /// A worker has asked more often than its handshakes explain, and was refused. It is said at most once in ten seconds
    /// for each worker.
    case tooMany(worker: UInt32)
    case pong
}
