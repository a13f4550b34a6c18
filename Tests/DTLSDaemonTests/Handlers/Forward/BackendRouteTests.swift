import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// Where a client's messages go with handler "forward", without a socket and by a clock that stands still.
@Suite struct BackendRouteTests {
    private typealias Step = BackendRoute.Step
    private typealias Notice = BackendRoute.Notice

    /// What the handler does for a route, with a network that is a table of errors.
    private final class Network {
        let backends: ForwardBackends
        private var route: BackendRoute
        /// What connect(2) and send(2) give for a backend; 0 where nothing is said.
        var connectErrors: [Int: Int32] = [:]
        var sendErrors: [Int: Int32] = [:]
        /// What send(2) gives before that, once each.
        var onceErrors: [Int32] = []
        private(set) var notices: [Notice] = []
        private(set) var steps: [Step] = []

        init(_ backends: ForwardBackends, client: String = "192.0.2.1:1", connection: AnyObject) throws {
            self.backends = backends
            route = BackendRoute(
                backends, client: try #require(SocketAddress(client)), connection: ObjectIdentifier(connection))
        }

        var backend: Int { route.backend }

        /// Sends a batch.
        /// - Returns: the steps that it took.
        func send(now: Instant = at(0)) -> [Step] {
            run(route.begin(now: now), now)
        }

        func refusePending(_ error: Int32, now: Instant = at(0)) -> [Step] {
            run(follow(route.pendingRefused(error, now: now)), now)
        }

        private func run(_ first: Step, _ now: Instant) -> [Step] {
            steps = []
            var step = first
            while steps.count < 100 {
                steps.append(step)
                switch step {
                case .connect, .switchBackend:
                    let error = connectErrors[route.backend] ?? 0
                    step = error == 0 ? route.connected() : follow(route.connectFailed(error, now: now))
                case .send:
                    if let notice = route.willSend(now: now) { notices.append(notice) }
                    let error = onceErrors.isEmpty ? sendErrors[route.backend] ?? 0 : onceErrors.removeFirst()
                    step = follow(route.sent(error, now: now))
                case .keepRest, .finish:
                    return steps
                }
            }
            Issue.record("the steps do not end: \(steps)")
            return steps
        }

        private func follow(_ transition: BackendRoute.Transition) -> Step {
            if let notice = transition.notice { notices.append(notice) }
            return transition.step
        }

        func fail() -> Step { route.socketFailed() }
        func begin(now: Instant = at(0)) -> Step { route.begin(now: now) }
        func answer() { if let notice = route.markBackendAlive() { notices.append(notice) } }
        func refuse(_ error: Int32, now: Instant = at(0)) {
            if let notice = route.noteRefusal(error, now: now) { notices.append(notice) }
        }
    }

    private final class Connection {}
    private let connection = Connection()
    private let second: UInt64 = 1_000_000_000

    private func udp(_ count: Int) throws -> Network {
        try Network(
            ForwardBackends(try (1...count).map { try Backend.udp("192.0.2.\($0):53") }), connection: connection)
    }

    private func unix(_ count: Int = 1) throws -> Network {
        try Network(ForwardBackends((1...count).map { .unix("/run/\($0)") }), connection: connection)
    }

    // MARK: One backend

    @Test func `the first message connects and the next ones are sent at once`() throws {
        let network = try udp(1)
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.send() == [.send, .finish])
        #expect(network.notices.isEmpty)
    }

    @Test func `a single backend is sent to even though it refuses`() throws {
        let network = try udp(1)
        network.sendErrors = [0: ECONNREFUSED]
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.send() == [.send, .finish])
        #expect(network.notices == [.outage(backend: 0, errno: ECONNREFUSED)])
        network.sendErrors = [:]
        #expect(network.send() == [.send, .finish])
        // Only an answer proves over UDP that somebody is there.
        #expect(network.notices.count == 1)
        network.answer()
        #expect(network.notices.last == .recovery(backend: 0, refusals: 2))
    }

    @Test func `a full queue makes the messages wait`() throws {
        let network = try unix()
        network.sendErrors = [0: EAGAIN]
        #expect(network.send() == [.connect, .send, .keepRest])
        #expect(network.notices.isEmpty)
    }

    @Test func `a message that is too large for the path is done with`() throws {
        let network = try udp(1)
        network.sendErrors = [0: EMSGSIZE]
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.notices.isEmpty)
    }

    @Test func `a Unix backend that was restarted is connected to again`() throws {
        let network = try unix()
        #expect(network.send() == [.connect, .send, .finish])
        network.onceErrors = [ECONNREFUSED]
        #expect(network.send() == [.send, .connect, .send, .finish])
        #expect(network.notices.isEmpty)
    }

    @Test func `a Unix backend that is gone is tried once for each batch until it is back`() throws {
        let network = try unix()
        #expect(network.send() == [.connect, .send, .finish])
        network.sendErrors = [0: ECONNREFUSED]
        network.connectErrors = [0: ENOENT]
        #expect(network.send() == [.send, .connect, .finish])
        #expect(network.send() == [.connect, .finish])
        #expect(network.notices == [.outage(backend: 0, errno: ENOENT)])
        network.sendErrors = [:]
        network.connectErrors = [:]
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.notices.last == .recovery(backend: 0, refusals: 2))
    }

    @Test func `a worker without descriptors blames no backend`() throws {
        let network = try udp(2)
        #expect(network.begin() == .connect)
        #expect(network.fail() == .finish)
        #expect(network.notices.isEmpty && network.backends.isServing(network.backend))
        #expect(network.send() == [.connect, .send, .finish])
    }

    // MARK: Several backends

    @Test func `a backend that refuses is left for the next one and taken again after its pause`() throws {
        let network = try udp(2)
        let home = network.backend
        network.sendErrors = [home: ECONNREFUSED]
        #expect(network.send() == [.connect, .send, .switchBackend, .send, .finish])
        #expect(network.backend != home)
        #expect(network.send(now: at(1)) == [.send, .finish])
        network.sendErrors = [:]
        #expect(network.send(now: at(second)) == [.switchBackend, .send, .finish])
        #expect(network.backend == home)
        network.answer()
        #expect(
            network.notices == [.outage(backend: home, errno: ECONNREFUSED), .recovery(backend: home, refusals: 1)])
    }

    @Test func `an ICMP error moves the next batch`() throws {
        let network = try udp(2)
        let home = network.backend
        #expect(network.send() == [.connect, .send, .finish])
        network.refuse(EHOSTUNREACH)
        #expect(network.send() == [.switchBackend, .send, .finish])
        #expect(network.backend != home)
        #expect(network.notices == [.outage(backend: home, errno: EHOSTUNREACH)])
    }

    @Test func `a backend that cannot be connected to is passed over`() throws {
        let network = try udp(3)
        let home = network.backend
        network.connectErrors = [home: ENETUNREACH]
        #expect(network.send() == [.connect, .switchBackend, .send, .finish])
        #expect(network.backend != home)
    }

    @Test func `the batch is dropped where no backend can be connected to`() throws {
        let network = try unix(3)
        network.connectErrors = [0: ENOENT, 1: ENOENT, 2: ENOENT]
        let steps = network.send()
        #expect(steps.last == .finish && !steps.contains(.send))
        #expect(network.notices.count == 3)
    }

    @Test func `the last backend gets the batch once more since the error may be an earlier datagram's`() throws {
        let network = try udp(2)
        let home = network.backend
        network.sendErrors = [home: ECONNREFUSED]
        #expect(network.send() == [.connect, .send, .switchBackend, .send, .finish])
        network.onceErrors = [ECONNREFUSED]
        #expect(network.send().suffix(2) == [.send, .finish])
        #expect(network.notices.count == 2)
    }

    @Test func `where all refuse the client's own backend is tried first`() throws {
        let network = try udp(3)
        let home = network.backend
        network.sendErrors = [0: ECONNREFUSED, 1: ECONNREFUSED, 2: ECONNREFUSED]
        #expect(network.send().last == .finish)
        #expect(network.notices.count == 3)
        #expect(network.send(now: at(1)).suffix(3) == [.send, .send, .finish])
        #expect(network.backend == home)
    }

    @Test func `messages that waited go to another backend where theirs refuses`() throws {
        let network = try udp(2)
        let home = network.backend
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.refusePending(ECONNREFUSED) == [.switchBackend, .send, .finish])
        #expect(network.backend != home)
        #expect(network.notices == [.outage(backend: home, errno: ECONNREFUSED)])
    }

    @Test func `messages that waited for a Unix backend leave after it was restarted`() throws {
        let network = try unix()
        #expect(network.send() == [.connect, .send, .finish])
        #expect(network.refusePending(ECONNREFUSED) == [.connect, .send, .finish])
        #expect(network.notices.isEmpty)
    }

    @Test func `only one connection tries a backend that was out`() throws {
        let one = try udp(2)
        let home = one.backend
        let stranger = Connection()
        let other = try Network(one.backends, connection: stranger)
        one.sendErrors = [home: ECONNREFUSED]
        _ = one.send()
        one.sendErrors = [:]
        #expect(one.send(now: at(second)) == [.switchBackend, .send, .finish])
        #expect(one.backend == home)
        // The client of the other connection has the same address, so the same backend is its own.
        #expect(other.send(now: at(second + 1)) == [.switchBackend, .send, .finish])
        #expect(other.backend != home)
        one.answer()
        #expect(other.send(now: at(second + 2)) == [.switchBackend, .send, .finish])
        #expect(other.backend == home)
    }

    /// Whatever the network answers, a batch ends while the clock stands still.
    @Test(arguments: 0..<200) func `every batch ends`(_ seed: UInt64) throws {
        var state = seed &* 0x9e37_79b9_7f4a_7c15 &+ 1
        func next(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((state >> 33) % UInt64(bound))
        }
        let errors = [0, 0, EAGAIN, ENOBUFS, EMSGSIZE, ECONNREFUSED, EHOSTUNREACH, ENOENT, EPIPE]
        let network = next(2) == 0 ? try udp(1 + next(4)) : try unix(1 + next(4))
        var now: Instant = at(0)
        for _ in 0..<50 {
            network.onceErrors = (0..<next(20)).map { _ in errors[next(errors.count)] }
            for index in network.backends.backends.indices {
                network.connectErrors[index] = next(2) == 0 ? 0 : errors[next(errors.count)]
                network.sendErrors[index] = errors[next(errors.count)]
            }
            let steps = next(4) == 0 ? network.refusePending(ECONNREFUSED, now: now) : network.send(now: now)
            #expect(steps.last == .finish || steps.last == .keepRest)
            if next(3) == 0 { network.answer() }
            now = now + .seconds(next(3))
        }
    }
}
