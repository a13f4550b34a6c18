import DTLSEngine
import DTLSTransport
import LinuxSystem
import Logging

/// Where a worker logs messages to (handler "log"): one output for each target, shared by all connections.
final class LogOutputs: HandlerSharedState {
    private let loop: EventLoop
    private let logs: WorkerLogs
    /// As many as the configurations have named, since connections keep theirs.
    private var outputs: [LogTarget: any LogOutput] = [:]
    /// Those of the outputs that have one.
    private var sockets: [UnixLogSocket] = []
    private let budget = PendingBudget()

    init(loop: EventLoop, logs: WorkerLogs) {
        self.loop = loop
        self.logs = logs
    }

    func output(for target: LogTarget) -> any LogOutput {
        if let existing = outputs[target] { return existing }
        let made: any LogOutput =
            switch target {
            case .journal(let path): JournalOutput(socket(path))
            case .syslog(let path): SyslogOutput(socket(path))
            case .file(let path): FileOutput(path, loop: loop, logs: logs)
            }
        outputs[target] = made
        return made
    }

    private func socket(_ path: String) -> UnixLogSocket {
        let socket = UnixLogSocket(path, budget, loop: loop, logs: logs)
        sockets.append(socket)
        return socket
    }

    /// What rotates files tells so by SIGHUP.
    func reconfigured() {
        for output in outputs.values { output.reopen() }
    }

    var isBusy: Bool { sockets.contains(where: \.isBusy) }

    func finish(by deadline: UInt64, _ done: @escaping () -> Void) {
        for socket in sockets where socket.isBusy {
            socket.finish(by: deadline) { [weak self] in
                if self?.isBusy == false { done() }
            }
        }
    }
}

/// One place that messages are logged to. It never waits for a reader: what is not taken in time is lost, and the log
/// of the daemon tells how many were.
protocol LogOutput: AnyObject {
    /// The record's bytes are valid during the call.
    func write(_ record: LogRecord, from origin: LogOrigin)
    /// A batch of messages has been written.
    func flush()
    func reopen()
}

extension LogOutput {
    func flush() {}
    func reopen() {}
}

/// A message that is to be logged.
enum LogRecord {
    case plain(UnsafeRawBufferPointer)
    case syslog(SyslogMessage)

    /// All of it on one line: without the line end that many senders add.
    var line: UnsafeRawBufferPointer {
        switch self {
        case .plain(let bytes): Self.withoutLineEnd(bytes)
        case .syslog(let message): message.whole
        }
    }

    private static func withoutLineEnd(_ bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer {
        var end = bytes.count
        if end > 0, bytes[end - 1] == UInt8(ascii: "\n") { end -= 1 }
        if end > 0, end < bytes.count, bytes[end - 1] == UInt8(ascii: "\r") { end -= 1 }
        return UnsafeRawBufferPointer(rebasing: bytes[..<end])
    }
}

/// Where messages come from: what is the same for all of a connection's.
final class LogOrigin {
    let service: ServiceRuntime
    /// SERVICE, PEER, CLIENT and MESSAGE_ID, as the journal takes them.
    let journalFields: [UInt8]
    /// `192.0.2.1:40000 sensor-7 `
    let linePrefix: [UInt8]

    /// By which the journal finds all messages that were logged for clients. Never change it.
    private static let journalMessageID = "69d7b53a4a534ffba63f2a0fd8ee7c6f"

    convenience init(_ connection: Connection, _ service: ServiceRuntime) {
        self.init(service, peer: "\(connection.peer)", client: connection.engine.peerIdentity?.name)
    }

    init(_ service: ServiceRuntime, peer: String, client: String?) {
        self.service = service
        var fields: [UInt8] = []
        JournalEncoding.append("MESSAGE_ID", Self.journalMessageID, to: &fields)
        JournalEncoding.append("SERVICE", service.configuration.name, to: &fields)
        JournalEncoding.append("PEER", peer, to: &fields)
        if let client { JournalEncoding.append("CLIENT", client, to: &fields) }
        journalFields = fields
        linePrefix = Array("\(peer) \(client.map(TextEncoding.value) ?? "-") ".utf8)
    }

    var name: String { service.configuration.name }
}
