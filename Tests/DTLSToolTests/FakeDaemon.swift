import CLinux
import ControlProtocol
import Foundation
import Synchronization
import TestSupport

/// A control socket that answers as a test says. It speaks the protocol of docs/control-protocol.md.
final class FakeDaemon: Sendable {
    enum Answer {
        case result(any Encodable & Sendable)
        case error(ControlError)
        /// This line, whatever it is.
        case line(String)
        case silence
        /// The connection is closed.
        case end
    }

    typealias Answering = @Sendable (ControlCommand) -> Answer

    private struct State {
        var isStopped = false
        var descriptors: [Int32] = []
        var commands: [ControlCommand] = []
    }

    let path: String
    private let listener: Int32
    private let answering: Answering
    private let state = Mutex(State())

    struct CannotListen: Error {}

    init(in folder: TestFolder, _ answering: @escaping Answering) throws {
        path = folder.file("control.sock")
        unlink(path)
        self.answering = answering
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &address.sun_path) { [path] in $0.copyBytes(from: path.utf8) }
        let bound = withUnsafeBytes(of: &address) { [listener] bytes in
            bind(
                listener, bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                socklen_t(MemoryLayout<sockaddr_un>.size))
        }
        guard bound == 0, listen(listener, 16) == 0 else { throw CannotListen() }
        Thread.detachNewThread { [self] in
            while true {
                let client = accept(listener, nil, nil)
                let isStopped = state.withLock { state in
                    if client >= 0 { state.descriptors.append(client) }
                    return state.isStopped
                }
                guard client >= 0, !isStopped else { return }
                Thread.detachNewThread { [self] in serve(client) }
            }
        }
    }

    /// What it was asked so far.
    var commands: [ControlCommand] { state.withLock { $0.commands } }

    /// Ends as a daemon that is killed: the file stays.
    func stop() {
        let descriptors = state.withLock { state in
            state.isStopped = true
            return state.descriptors
        }
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
        for descriptor in descriptors { shutdown(descriptor, Int32(SHUT_RDWR)) }
    }

    private func serve(_ client: Int32) {
        var framing = LineFraming(maximum: ControlProtocol.maximumRequestBytes)
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(client, &buffer, buffer.count, 0)
            guard count > 0 else { return }
            buffer[..<count].withUnsafeBytes { framing.append($0) }
            while case .line(let line) = framing.next() {
                guard case .success(let request) = ControlProtocol.request(from: line) else { return }
                state.withLock { $0.commands.append(request.command) }
                var bytes: [UInt8]
                switch answering(request.command) {
                case .result(let value): bytes = Self.encode(value)
                case .error(let error):
                    bytes = (try? ControlProtocol.encode(ControlAnswer<CloseResult>(.failure(error), id: nil))) ?? []
                case .line(let text): bytes = Array(text.utf8)
                case .silence: continue
                case .end:
                    shutdown(client, Int32(SHUT_RDWR))
                    return
                }
                bytes.append(UInt8(ascii: "\n"))
                _ = send(client, bytes, bytes.count, Int32(MSG_NOSIGNAL))
            }
        }
    }

    private static func encode(_ value: some Encodable) -> [UInt8] {
        Array(#"{"ok":true,"result":"#.utf8) + ((try? ControlProtocol.encode(value)) ?? [])
            + Array(#","version":1}"#.utf8)
    }
}
