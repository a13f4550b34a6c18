import LinuxSystem
import Primitives

/// `[service.NAME.forward.health_check]`: how the backends of a service are checked.
struct HealthCheck: Codable, Equatable, Sendable {
    /// The datagram that each backend is sent.
    var datagram: [UInt8]
    /// What its answer has to be; `nil`: anything.
    var expected: BytePattern?
    /// From the start of one check to that of the next, 1 s to an hour.
    var interval = Duration.seconds(5)
    /// How long an answer is waited for, 1 s to a minute, and at most ``interval``.
    var timeout = Duration.seconds(2)
    /// The checks that have to fail one after the other before a backend is down, 1 to 100.
    var fall = 3
    /// The checks that have to pass one after the other before it is up again, 1 to 100.
    var rise = 2
    /// The addresses of this machine from which UDP backends are checked: those of the service.
    var sources: [SocketAddress] = []
    /// The only network interface over which they are checked: that of the service.
    var interface: String?
}
