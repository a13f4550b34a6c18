import CCares
import CLinux
import Glibc
import LinuxSystem
import Primitives

/// One question for the addresses of a host name, answered by c-ares: /etc/hosts, then the name servers, in the order of
/// /etc/nsswitch.conf, with the search domains of /etc/resolv.conf.
///
/// Each question has a channel of its own. c-ares reads these files when a channel is made, so a change of them holds
/// from the next question on; and since version 1.31 a channel has a cache, which would answer in place of the name
/// server when a backend has moved before its records have expired.
final class HostLookup: TimerTarget {
    private let host: String
    private let loop: EventLoop
    private var channel: OpaquePointer?
    private var sockets: [ares_socket_t: Socket] = [:]
    private var outcome: LookUpAnswer.Outcome?
    private var completion: ((LookUpAnswer) -> Void)?

    /// How long a name server may take to answer the first time; c-ares waits twice as long each time that it asks again.
    private static let timeout = Duration.seconds(2)
    private static let tries: Int32 = 3

    /// A socket of c-ares in the loop. c-ares closes its descriptor without a word, so the loop watches a copy.
    private final class Socket: EventHandler {
        private unowned let lookup: HostLookup
        private let number: ares_socket_t
        private let copy: FileDescriptor
        private var registration: EventLoop.Registration?

        init(_ number: ares_socket_t, _ interest: EventLoop.Events, of lookup: HostLookup) throws(SystemError) {
            self.lookup = lookup
            self.number = number
            copy = try FileDescriptor.withBorrowed(number) { raw throws(SystemError) in try raw.duplicate() }
            registration = try lookup.loop.add(copy, interest, self)
        }

        func change(_ interest: EventLoop.Events) throws(SystemError) {
            if let registration { try lookup.loop.modify(copy, interest, registration) }
        }

        func close() {
            if let registration { lookup.loop.remove(copy, registration) }
            registration = nil
        }

        func ready(_ events: EventLoop.Events) {
            // An error is found by reading.
            let isReadable = !events.isDisjoint(with: [.readable, .hangUp])
            lookup.process(isReadable ? number : -1, events.contains(.writable) ? number : -1)
        }
    }

    init(_ question: LookUpQuestion, loop: EventLoop, completion: @escaping (LookUpAnswer) -> Void) {
        host = question.host
        self.loop = loop
        self.completion = completion
        super.init()
        start(question)
    }

    private func start(_ question: LookUpQuestion) {
        var options = ares_options()
        options.timeout = Int32(clamping: Self.timeout.milliseconds)
        options.tries = Self.tries
        options.sock_state_cb_data = Unmanaged.passUnretained(self).toOpaque()
        options.sock_state_cb = { context, number, isReadable, isWritable in
            guard let context else { return }
            var interest: EventLoop.Events = []
            if isReadable != 0 { interest.insert(.readable) }
            if isWritable != 0 { interest.insert(.writable) }
            Unmanaged<HostLookup>.fromOpaque(context).takeUnretainedValue().watch(number, interest)
        }
        let status = ares_init_options(
            &channel, &options, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB)
        guard status == 0 else { return end(.failed(Self.text(of: status))) }
        if !question.servers.isEmpty {
            let list = question.servers.map(\.description).joined(separator: ",")
            let status = ares_set_servers_ports_csv(channel, list)
            guard status == 0 else { return end(.failed("the name servers \(list): \(Self.text(of: status))")) }
        }
        var hints = ares_addrinfo_hints()
        hints.ai_family = AF_UNSPEC
        hints.ai_socktype = Int32(SOCK_DGRAM.rawValue)
        ares_getaddrinfo(
            channel, question.host, nil, &hints,
            { context, status, _, result in
                guard let context else { return }
                defer { if let result { ares_freeaddrinfo(result) } }
                Unmanaged<HostLookup>.fromOpaque(context).takeUnretainedValue()
                    .end(HostLookup.outcome(status, result))
            }, Unmanaged.passUnretained(self).toOpaque())
        rearm()
    }

    private static func outcome(
        _ status: Int32, _ result: UnsafeMutablePointer<ares_addrinfo>?
    ) -> LookUpAnswer.Outcome {
        guard status == 0, let result else { return .failed(text(of: status)) }
        var addresses: [SocketAddress] = []
        var timeToLive = UInt32.max
        var node = result.pointee.nodes
        while let current = node?.pointee {
            node = current.ai_next
            guard let raw = current.ai_addr, let found = SocketAddress(raw, length: Int(current.ai_addrlen)),
                addresses.count < LookUpAnswer.maximumAddresses
            else { continue }
            let address = found.with(port: 0)
            if !addresses.contains(address) { addresses.append(address) }
            timeToLive = min(timeToLive, UInt32(clamping: current.ai_ttl))
        }
        var alias = result.pointee.cnames
        while let current = alias?.pointee {
            alias = current.next
            timeToLive = min(timeToLive, UInt32(clamping: current.ttl))
        }
        if addresses.isEmpty { return .failed("it has neither an IPv4 nor an IPv6 address") }
        return .found(addresses, timeToLive: timeToLive)
    }

    private static func text(of status: Int32) -> String {
        ares_strerror(status).map { String(cString: $0) } ?? "status \(status) of c-ares"
    }

    // MARK: The loop

    private func watch(_ number: ares_socket_t, _ interest: EventLoop.Events) {
        if interest.isEmpty {
            sockets.removeValue(forKey: number)?.close()
            return
        }
        // What cannot be watched, for want of memory, is found by the time-out.
        do throws(SystemError) {
            if let socket = sockets[number] {
                try socket.change(interest)
            } else {
                sockets[number] = try Socket(number, interest, of: self)
            }
        } catch {}
    }

    private func process(_ readable: ares_socket_t, _ writable: ares_socket_t) {
        guard let channel, outcome == nil else { return }
        ares_process_fd(channel, readable, writable)
        rearm()
    }

    private func rearm() {
        guard let channel, outcome == nil else { return }
        var left = timeval()
        guard ares_timeout(channel, nil, &left) != nil else { return }
        // Rounded up, since a call that comes too early does nothing.
        let wait = Duration.milliseconds(Int64(left.tv_sec) * 1_000 + Int64(left.tv_usec) / 1_000 + 1)
        loop.timers.disarm(self)
        loop.timers.arm(self, at: loop.now + wait)
    }

    override func timerFired(now: Instant) { process(-1, -1) }

    /// c-ares calls this, and its channel must not be destroyed from there.
    private func end(_ outcome: LookUpAnswer.Outcome) {
        guard self.outcome == nil else { return }
        self.outcome = outcome
        loop.timers.disarm(self)
        loop.atEndOfTurn { [self] in finish(outcome) }
    }

    private func finish(_ outcome: LookUpAnswer.Outcome) {
        if let channel { ares_destroy(channel) }
        channel = nil
        for socket in sockets.values { socket.close() }
        sockets = [:]
        let completion = completion
        self.completion = nil
        completion?(LookUpAnswer(host: host, outcome: outcome))
    }
}
