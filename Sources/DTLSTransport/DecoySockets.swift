import LinuxSystem
import Primitives

/// A listener's sockets in front of its connections, which keep an unauthenticated peer's datagram cheap (rule 9).
///
/// To find the socket for a datagram of no connection, the kernel walks over all sockets of its address. The walk ends
/// at the first one that has no peer and whose reuseport group has no connection (udp4_lib_lookup2, udp6_lib_lookup2).
/// A decoy is one: a group is of one interface (udp_reuseport_add_sock), and a decoy is bound to one, as no connection
/// is. Measured with 15,000 connections: 5 µs instead of 344.
///
/// A decoy takes what the listener would get, and the listener takes what no decoy is for. So the worst that happens
/// where one cannot be opened, or the kernel has changed, is the walk. But it needs a kernel that finds connections
/// before it walks (``UDPSocket/findsConnectedFirst(like:)``): another one would give the connections' datagrams to the
/// decoy too.
final class DecoySockets {
    /// So many connections are opened on a local address before it gets decoys. The kernel puts a new IPv4 socket in
    /// front of the others, so that a decoy there is replaced whenever so many connections have come before it. A new
    /// IPv6 socket goes behind the others (udp_lib_get_port): a decoy there serves all later connections, and stays.
    static let crowd = 256
    /// More local addresses are not counted. A machine can have that many (ip(8), local routes).
    private static let maximumAddresses = 1_024
    private static let maximumDecoys = 64

    private struct Address {
        /// Connections that have been opened on it.
        var openings = 0
        /// How many there must have been for a decoy to be opened.
        var threshold = crowd
        /// By the interface over which they receive.
        var decoys: [UInt32: DecoySocket] = [:]

        mutating func giveUpForNow() { threshold = openings + crowd }
        mutating func giveUp() { threshold = .max }
    }

    private struct Place: Hashable {
        let local: SocketAddress
        let interface: UInt32
    }

    private var addresses: [SocketAddress: Address] = [:]
    private var isAnywhereCrowded = false
    /// Where a decoy is to be opened or replaced at the end of the turn: now datagrams may be being read.
    private var due: Set<Place> = []
    private unowned let listener: DatagramListener
    private let loop: EventLoop

    init(of listener: DatagramListener, loop: EventLoop) {
        self.listener = listener
        self.loop = loop
    }

    var count: Int { addresses.values.reduce(0) { $0 + $1.decoys.count } }

    /// Datagrams that the kernel has dropped for want of room in decoys, closed ones included.
    var queueDrops: UInt64 {
        addresses.values.reduce(closedDrops) { $0 &+ $1.decoys.values.reduce(0) { $0 &+ $1.queueDrops } }
    }
    private var closedDrops: UInt64 = 0

    /// A connection has been opened.
    func countOpening(on local: SocketAddress) {
        // A connection on a link-local address is of an interface itself.
        guard local.scope == 0, addresses[local] != nil || addresses.count < Self.maximumAddresses else { return }
        var address = addresses[local] ?? Address()
        address.openings += 1
        addresses[local] = address
        guard address.openings.isMultiple(of: Self.crowd) else { return }
        isAnywhereCrowded = true
        if local.family == .ipv4 { for interface in address.decoys.keys { schedule(local, interface) } }
    }

    /// A datagram has come to the listener's own socket: no decoy has taken it.
    func notePassed(_ destination: ReceiveBatch.Destination) {
        guard isAnywhereCrowded, let address = addresses[destination.address], address.openings >= address.threshold,
            address.decoys[destination.interface] == nil
        else { return }
        schedule(destination.address, destination.interface)
    }

    /// Closes them all. Where datagrams go on coming to the listener's own socket, they are opened again.
    func close(afterReading: Bool) {
        due = []
        for (local, address) in addresses {
            addresses[local]?.decoys = [:]
            for decoy in address.decoys.values { closedDrops &+= decoy.queueDrops }
            for decoy in address.decoys.values { decoy.close(afterReading: afterReading) }
        }
    }

    private func schedule(_ local: SocketAddress, _ interface: UInt32) {
        if due.isEmpty { loop.atEndOfTurn { [self] in handleDue() } }
        due.insert(Place(local: local, interface: interface))
    }

    private func handleDue() {
        let places = due
        due = []
        for place in places where listener.isOpen {
            guard let decoy = addresses[place.local]?.decoys[place.interface] else {
                open(place)
                continue
            }
            if decoy.isUsed {
                replace(decoy, place)
            } else {
                addresses[place.local]?.decoys[place.interface] = nil
                closedDrops &+= decoy.queueDrops
                decoy.close(afterReading: true)
            }
        }
    }

    private func open(_ place: Place) {
        guard UDPSocket.findsConnectedFirst(like: place.local) else {
            addresses[place.local]?.giveUp()
            return
        }
        if count < Self.maximumDecoys, let decoy = try? make(place) {
            addresses[place.local]?.decoys[place.interface] = decoy
        } else {
            // The interface is gone, or there are no descriptors. A later try may succeed.
            addresses[place.local]?.giveUpForNow()
        }
    }

    private func replace(_ decoy: DecoySocket, _ place: Place) {
        closedDrops &+= decoy.predecessorDrops
        decoy.closePredecessor()
        // That has read its last datagrams, and may have closed the listener by it.
        guard listener.isOpen else { return }
        // A decoy that can be found as a member of a group would get its successor into that, and half of the datagrams
        // with it.
        decoy.share(false)
        guard let successor = try? make(place) else { return decoy.share(true) }
        // The kernel may have found the old one for a datagram that it has yet to deliver. So it is read on until the
        // next one comes.
        successor.predecessor = decoy
        addresses[place.local]?.decoys[place.interface] = successor
    }

    private func make(_ place: Place) throws(SystemError) -> DecoySocket {
        let socket = try listener.openDecoy(on: place.local, interface: place.interface)
        return try DecoySocket(socket, of: listener, loop)
    }
}

/// A socket that takes part of what would come to its listener's own.
final class DecoySocket: EventHandler {
    private var socket: FileDescriptor
    private var registration: EventLoop.Registration?
    private unowned let listener: DatagramListener
    private let loop: EventLoop
    private var pace = ReadingPace()
    private lazy var flood = FloodFilter(loop: loop) { [weak self] filter in
        guard let self else { return false }
        return DatagramFilter.install(filter, on: socket)
    }
    /// Whether a datagram has come.
    private(set) var isUsed = false
    private var drops: QueueDrops
    /// Of this decoy, and of the one that it has replaced.
    var queueDrops: UInt64 {
        drops.update(from: socket)
        return drops.total &+ predecessorDrops
    }
    var predecessorDrops: UInt64 { predecessor?.queueDrops ?? 0 }
    /// The decoy that this one has replaced.
    fileprivate var predecessor: DecoySocket?

    init(_ socket: consuming FileDescriptor, of listener: DatagramListener, _ loop: EventLoop) throws(SystemError) {
        drops = QueueDrops(of: socket)
        self.socket = socket
        self.listener = listener
        self.loop = loop
        registration = try loop.add(self.socket, .readable, self)
    }

    func ready(_ events: EventLoop.Events) {
        isUsed = true
        let (start, admittedBefore) = (Instant.now(), listener.counters.admitted)
        let (counts, isEmpty) = listener.read(from: self)
        // What was read may have closed it.
        guard let registration else { return }
        flood.noteRead(
            counts, admitted: Int(clamping: listener.counters.admitted &- admittedBefore), isEmpty: isEmpty, from: start
        )
        guard isEmpty, let pause = pace.pause(after: counts.total, hellos: counts.hellos, now: loop.now) else { return }
        loop.pause(socket, .readable, registration, until: loop.now + pause)
    }

    func receive(into batch: ReceiveBatch) throws(SystemError) -> Int { try batch.receive(from: socket) }

    /// Sets SO_REUSEPORT.
    func share(_ on: Bool) { try? UDPSocket.shareAddress(on, of: socket) }

    func closePredecessor() {
        predecessor?.close(afterReading: true)
        predecessor = nil
    }

    func close(afterReading: Bool) {
        predecessor?.close(afterReading: afterReading)
        predecessor = nil
        if afterReading { listener.read(from: self) }
        flood.remove()
        if let registration { loop.remove(socket, registration) }
        registration = nil
        _ = socket.take()
    }
}
