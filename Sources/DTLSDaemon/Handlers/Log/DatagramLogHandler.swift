import DTLSEngine
import DTLSTransport

/// Every message is logged: in the journal, in a file, or by a syslog daemon (handler "log"). Clients get no answer.
final class DatagramLogHandler: Handler {
    private let format: LogFormat
    private let output: any LogOutput
    private var origin: LogOrigin

    convenience init(
        _ configuration: LogConfiguration, of service: ServiceRuntime, for client: ServedClient,
        _ resources: HandlerResources
    ) {
        self.init(
            configuration.format, to: resources.sharedState(LogOutputs.self).output(for: configuration.target),
            from: LogOrigin(client, service))
    }

    func moved(_ connection: Connection) {
        origin = LogOrigin(
            service: origin.service, peer: "\(connection.peer)", client: connection.session.peerName?.name)
    }

    init(_ format: LogFormat, to output: any LogOutput, from origin: LogOrigin) {
        self.format = format
        self.output = output
        self.origin = origin
    }

    func opened(_ connection: Connection) {}

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) { log(message) }

    func log(_ message: UnsafeRawBufferPointer) {
        switch format {
        case .plain: output.write(.plain(message), from: origin)
        case .syslog: SyslogFrames.each(of: message) { output.write(.syslog(SyslogMessage($0)), from: origin) }
        }
    }

    func batchEnded(on connection: Connection) { output.flush() }

    func closed() {}
}
