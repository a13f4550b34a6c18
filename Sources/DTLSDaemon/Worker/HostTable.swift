import LinuxSystem
import Primitives

/// The addresses of host names in one worker, as the main process has told them.
final class HostTable {
    private var addresses: [String: [SocketAddress]] = [:]
    /// When the main process may be asked again to look a name up.
    private var nextQuestions: [String: Instant] = [:]
    /// Is called with a name whose addresses all refuse datagrams.
    var onRefused: (String) -> Void = { _ in }

    /// How often one name is asked for.
    private static let pause = Duration.seconds(1)

    /// The addresses with this port, those first that are preferred; none where the name was never looked up with
    /// success.
    func addresses(of host: String, port: UInt16) -> [SocketAddress] {
        (addresses[host] ?? []).map { $0.with(port: port) }
    }

    func replace(_ addresses: [SocketAddress], of host: String) { self.addresses[host] = addresses }

    /// All addresses of a name refuse datagrams.
    func noteRefusal(of host: String, now: Instant) {
        guard now >= nextQuestions[host] ?? .distantPast else { return }
        nextQuestions[host] = now + Self.pause
        onRefused(host)
    }
}

/// The addresses of a client's server, and which of them the next connection goes to. It does no I/O.
///
/// An address stays the one for as long as connections to it stand. After one that has failed, it is the next one's turn.
struct ServerAddresses {
    private(set) var all: [SocketAddress] = []
    private var index = 0
    /// The addresses that have failed one after the other.
    private var failures = 0

    /// Where the next connection goes; `nil` where no address is known.
    var current: SocketAddress? { all.indices.contains(index) ? all[index] : nil }

    mutating func replace(with addresses: [SocketAddress]) {
        let kept = current.flatMap { addresses.firstIndex(of: $0) }
        all = addresses
        index = kept ?? 0
        failures = 0
    }

    /// A connection to this address has failed. Of several that fail together, the first counts.
    /// - Returns: whether all addresses have failed, one after the other.
    mutating func noteFailure(of address: SocketAddress?) -> Bool {
        guard let current else { return true }
        guard current == address else { return false }
        index = (index + 1) % all.count
        failures += 1
        guard failures >= all.count else { return false }
        failures = 0
        return true
    }

    /// A connection to this address stands.
    mutating func noteSuccess() { failures = 0 }
}
