import Glibc
import LinuxSystem

/// Why a listener refuses a peer.
package enum Refusal: Int, CaseIterable, Sendable {
    /// Its address is not on the list of those that are served. Each of its datagrams is counted.
    case denied
    /// It offers no version of DTLS that is known here. Each of its hellos is counted, and none is verified.
    case version
    /// Nobody has room for another connection.
    case full
    /// There is room for another connection, but the worker that has it does not read its channel or does not answer.
    case busy
    /// Nobody is there who could serve it: processes are being started, for example.
    case noWorker
    /// The kernel gave no socket for want of descriptors, or of memory for sockets.
    case descriptors
    /// The kernel puts no more sockets on the listener's address and port: up to Linux 6.12 a reuseport group has
    /// 32,768 at most, and a group whose table cannot grow any more (reuseport_grow) makes bind(2) fail with
    /// EADDRINUSE.
    case addressFull
    /// The kernel gave no socket for another reason: the address is gone from the machine, the peer cannot be reached.
    case socket
    /// No local port is left for another socket to the backend of its service.
    case localPorts
    /// No backend of its service has an address: none of their host names has been resolved yet.
    case noBackend
    /// A rule of its service refuses it, by what its handshake has shown.
    case rule
    /// None of the rules of its service is for it, and there is no backend for others.
    case noRule
    case connections
    case connectionsPerPrefix
    case handshakes
    case handshakesPerSecond
    case handshakesPerSecondPerPrefix

    /// Why the kernel gave no socket.
    package init(_ error: SystemError) {
        switch error.errno {
        case EMFILE, ENFILE, ENOBUFS, ENOMEM: self = .descriptors
        case EADDRINUSE: self = .addressFull
        default: self = .socket
        }
    }
}

/// How often each kind of thing has happened.
package struct Tally<Kind: CaseIterable & RawRepresentable<Int> & Sendable>: Equatable, Sendable {
    /// By the kinds' raw values, which begin at 0.
    private var counts = [UInt64](repeating: 0, count: Kind.allCases.count)

    package init() {}

    package subscript(kind: Kind) -> UInt64 { counts[kind.rawValue] }

    package mutating func count(_ kind: Kind, _ number: UInt64 = 1) { counts[kind.rawValue] &+= number }

    package mutating func add(_ other: Self) { for kind in Kind.allCases { count(kind, other[kind]) } }

    package var total: UInt64 { counts.reduce(0, &+) }
}
