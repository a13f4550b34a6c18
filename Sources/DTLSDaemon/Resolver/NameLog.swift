import LinuxSystem
import Logging
import Primitives

/// What an operator is told of host names. Name servers can cause it any number of times, so it is limited.
final class NameLog {
    private let logger: Logger
    private let loop: EventLoop
    private var limiter = LogLimiter(burst: 20, perSecond: 1)

    init(_ logger: Logger, loop: EventLoop) {
        self.logger = logger
        self.loop = loop
    }

    func log(_ action: NameTable.Action, _ table: NameTable) {
        switch action {
        case .lookUp, .publish: break
        case .logFailure(let host, let reason, let pause):
            let known = table.addresses(of: host)
            let meanwhile =
                known.isEmpty
                ? "nothing can be sent there until it has an address" : "its last addresses stay: \(Self.text(known))"
            log(
                .nameUnresolved, host,
                "the host name \(host) cannot be resolved: \(reason); \(meanwhile). The next try is in"
                    + " \(pause.seconds) s")
        case .logSuccess(let host, let addresses):
            log(.nameResolved, host, "the host name \(host) is resolved: \(Self.text(addresses))")
        case .logChange(let host, let addresses):
            log(.nameResolved, host, "the host name \(host) has other addresses: \(Self.text(addresses))")
        }
    }

    /// The process that looks names up has ended, or cannot be started.
    func logEnd(because reason: String, pause: Duration) {
        limiter.log(
            .internalError, to: logger, now: loop.now,
            "host names are not looked up: \(reason). The addresses that are known stay, and the resolver is started again"
                + " in \(pause.seconds) s")
    }

    /// Reports what was held back. Call it regularly.
    func flush() { limiter.flush(now: loop.now, to: logger) }

    private func log(_ event: LogEvent, _ host: String, _ message: @autoclosure () -> String) {
        limiter.log(event, to: logger, now: loop.now, message(), ["HOST": "\(host)"])
    }

    private static func text(_ addresses: [SocketAddress]) -> String {
        addresses.map(\.host).joined(separator: ", ")
    }
}
