import Primitives

/// All that a worker needs to serve: the configuration, and the cookie secret that all workers share. The keys of
/// session tickets change on their own, and have a message of their own.
struct Snapshot: Codable {
    let configuration: Configuration
    /// The key of the cookies, in the acceptor and in every worker.
    let cookieSecret: [UInt8]
}
