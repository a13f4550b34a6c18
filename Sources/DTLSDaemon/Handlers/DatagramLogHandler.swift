import DTLSTransport

/// Every message is logged: in the journal, in a file, or by a syslog daemon (handler "log"). Clients are told nothing.
final class DatagramLogHandler: Handler {
    private let configuration: LogConfiguration
    private let service: ServiceRuntime
    private let output: any LogOutput
    private var origin: LogOrigin?

    init(_ configuration: LogConfiguration, of service: ServiceRuntime, _ resources: HandlerResources) {
        self.configuration = configuration
        self.service = service
        output = resources.commons(LogOutputs.self).output(for: configuration.target)
    }

    func opened(_ connection: Connection) { origin = LogOrigin(connection, service) }

    func received(_ message: UnsafeRawBufferPointer, on connection: Connection) {
        guard let origin else { return }
        switch configuration.format {
        case .plain: output.write(.plain(message), from: origin)
        case .syslog: SyslogFrames.each(of: message) { output.write(.syslog(SyslogMessage($0)), from: origin) }
        }
    }

    func batchEnded(on connection: Connection) { output.flush() }

    func closed() {}
}
