import Glibc
import LinuxSystem
import Primitives
import TestSupport
import Testing

@testable import DTLSDaemon

/// Where a client's messages go with handler "forward", without a socket and by a clock that stands still.
@Suite struct BackendRouteTests {
    private typealias Step = BackendRoute.Step

    /// A notice, with the backend's place in the list at the start.
    private enum Notice: Equatable {
        case outage(backend: Int, errno: Int32)
        case recovery(backend: Int, refusals: UInt64)
    }

    /// What the handler does for a route, with a network that is a table of errors.
    private final class Network {
        let backends: ForwardBackends
        /// The backends at the start.
        let list: [ForwardBackend]
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
            list = backends.list.elements
            route = BackendRoute(
                backends, client: try #require(SocketAddress(client)), connection: ObjectIdentifier(connection))
        }

        /// The place in the list; `nil` for a backend that came later.
        var backend: Int? { list.firstIndex(of: route.backend) }
        var backendName: String { route.backend.configuration.name }
        var isBackendGone: Bool { route.isBackendGone }

        private func note(_ notice: BackendRoute.Notice?) {
            switch notice {
            case .outage(let backend, let errno):
                notices.append(.outage(backend: list.firstIndex(of: backend) ?? -1, errno: errno))
            case .recovery(let backend, let refusals):
                notices.append(.recovery(backend: list.firstIndex(of: backend) ?? -1, refusals: refusals))
            case nil: break
            }
        }

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
                    let error = backend.flatMap { connectErrors[$0] } ?? 0
                    step = error == 0 ? route.connected() : follow(route.connectFailed(error, now: now))
                case .send:
                    note(route.willSend(now: now))
                    let error = onceErrors.isEmpty ? backend.flatMap { sendErrors[$0] } ?? 0 : onceErrors.removeFirst()
                    step = follow(route.sent(error, now: now))
                case .keepRest, .finish:
                    return steps
                }
            }
            Issue.record("the steps do not end: \(steps)")
            return steps
        }

        private func follow(_ transition: BackendRoute.Transition) -> Step {
            note(transition.notice)
            return transition.step
        }

        /// A reload with these backends.
        func reload(_ backends: Backend...) throws {
            self.backends.configure(try #require(NonEmpty(backends)))
        }

        func fail() -> Step { route.socketFailed() }
        func begin(now: Instant = at(0)) -> Step { route.begin(now: now) }
        func answer() { note(route.markBackendAlive()) }
        func refuse(_ error: Int32, now: Instant = at(0)) {
            note(route.noteRefusal(error, now: now))
        }
    }

    private final class Connection {}
    private let connection = Connection()
    private let second: UInt64 = 1_000_000_000

    private func udp(_ count: Int) throws -> Network {
        try Network(
            try ForwardBackends(try (1...count).map { try Backend.udp("192.0.2.\($0):53") }), connection: connection)
    }

    private func unix(_ count: Int = 1) throws -> Network {
        try Network(try ForwardBackends((1...count).map { .unix("/run/\($0)") }), connection: connection)
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
        #expect(network.notices.isEmpty && network.list.allSatisfy(\.isServing))
        #expect(network.send() == [.connect, .send, .finish])
    }

    // MARK: Several backends

    @Test func `a backend that refuses is left for the next one and taken again after its pause`() throws {
        let network = try udp(2)
        let home = try #require(network.backend)
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
        let home = try #require(network.backend)
        #expect(network.send() == [.connect, .send, .finish])
        network.refuse(EHOSTUNREACH)
        #expect(network.send() == [.switchBackend, .send, .finish])
        #expect(network.backend != home)
        #expect(network.notices == [.outage(backend: home, errno: EHOSTUNREACH)])
    }

    @Test func `a backend that cannot be connected to is passed over`() throws {
        let network = try udp(3)
        let home = try #require(network.backend)
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
        let home = try #require(network.backend)
        network.sendErrors = [home: ECONNREFUSED]
        #expect(network.send() == [.connect, .send, .switchBackend, .send, .finish])
        network.onceErrors = [ECONNREFUSED]
        #expect(network.send().suffix(2) == [.send, .finish])
        #expect(network.notices.count == 2)
    }

    @Test func `where all refuse the client's own backend is tried first`() throws {
        let network = try udp(3)
        let home = try #require(network.backend)
        network.sendErrors = [0: ECONNREFUSED, 1: ECONNREFUSED, 2: ECONNREFUSED]
        #expect(network.send().last == .finish)
        #expect(network.notices.count == 3)
        #expect(network.send(now: at(1)).suffix(3) == [.send, .send, .finish])
        #expect(network.backend == home)
    }

    @Test func `messages that waited go to another backend where theirs refuses`() throws {
        let network = try udp(2)
        let home = try #require(network.backend)
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
        let home = try #require(one.backend)
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

    // MARK: Reloads

    private func backend(_ number: Int) throws -> Backend { try .udp("192.0.2.\(number):53") }

    @Test func `a backend that is gone after a reload is left with the next message`() throws {
        let network = try udp(1)
        #expect(network.send() == [.connect, .send, .finish])
        try network.reload(backend(7))
        #expect(network.isBackendGone)
        #expect(network.send() == [.switchBackend, .send, .finish])
        #expect(network.backendName == "udp:192.0.2.7:53" && !network.isBackendGone)
        #expect(network.send() == [.send, .finish])
        #expect(network.notices.isEmpty)
    }

    @Test func `what becomes of a backend that is gone is no news`() throws {
        let network = try udp(1)
        _ = network.send()
        try network.reload(backend(7))
        network.refuse(ECONNREFUSED)
        network.answer()
        #expect(network.notices.isEmpty)
    }

    /// Of many backends that are added, one comes before the client's own.
    @Test func `a connection stays with a backend that still stands`() throws {
        let network = try udp(1)
        _ = network.send()
        let all = try (1...50).map { try backend($0) }
        network.backends.configure(try #require(NonEmpty(all)))
        let newcomer = try Network(network.backends, connection: Connection())
        #expect(newcomer.backendName != network.backendName)
        #expect(network.send() == [.send, .finish])
        #expect(network.backend == 0)
    }

    @Test func `a backend that refuses after a reload is left for a new one and taken again`() throws {
        let network = try udp(1)
        _ = network.send()
        try network.reload(backend(1), backend(7))
        network.sendErrors = [0: ECONNREFUSED]
        #expect(network.send() == [.send, .switchBackend, .send, .finish])
        #expect(network.backendName == "udp:192.0.2.7:53")
        network.sendErrors = [:]
        #expect(network.send(now: at(second)) == [.switchBackend, .send, .finish])
        #expect(network.backend == 0)
    }

    @Test func `a host name whose address has changed is connected to anew`() throws {
        func named(_ address: String) throws -> Backend {
            Backend(name: "udp:be.example:53", address: .udp(try #require(SocketAddress(address))))
        }
        let network = try Network(try ForwardBackends([named("192.0.2.1:53")]), connection: connection)
        _ = network.send()
        try network.reload(named("192.0.2.2:53"))
        #expect(network.send() == [.switchBackend, .send, .finish])
        // The same address by another name is the same backend.
        try network.reload(.udp("192.0.2.2:53"))
        #expect(network.send() == [.send, .finish])
    }

    @Test func `a backend that comes back before the next message is kept`() throws {
        let network = try udp(1)
        _ = network.send()
        try network.reload(backend(7))
        try network.reload(backend(1))
        #expect(!network.isBackendGone)
        #expect(network.send() == [.send, .finish])
    }

    @Test func `an outage is remembered over a reload`() throws {
        let network = try udp(2)
        let home = try #require(network.backend)
        network.sendErrors = [home: ECONNREFUSED]
        _ = network.send()
        try network.reload(backend(1), backend(2), backend(3))
        #expect(!network.list[home].isServing)
        _ = network.send()
        #expect(network.backend != home)
    }

    @Test func `during an outage a connection that loses its home stays where it is`() throws {
        let network = try udp(2)
        let home = try #require(network.backend)
        network.sendErrors = [home: ECONNREFUSED]
        _ = network.send()
        let refuge = network.backendName
        try network.reload(backend(2 - home), backend(3), backend(4), backend(5), backend(6))
        #expect(network.send() == [.send, .finish])
        #expect(network.backendName == refuge)
    }

    @Test func `a Unix backend gives way to a UDP backend`() throws {
        let network = try unix()
        _ = network.send()
        try network.reload(backend(7))
        #expect(network.send() == [.switchBackend, .send, .finish])
        #expect(network.backendName == "udp:192.0.2.7:53")
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
            for index in network.list.indices {
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
