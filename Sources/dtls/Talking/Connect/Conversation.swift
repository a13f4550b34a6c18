import DTLSKit
import Glibc
import LinuxSystem
import Primitives

/// The bytes that are to be sent: standard input, or a file.
final class InputSource {
    private let descriptor: Int32
    private let isOwn: Bool

    /// - Parameter path: `nil`: standard input.
    init(_ path: String?) throws(TalkingFailure) {
        guard let path else {
            (descriptor, isOwn) = (0, false)
            return
        }
        descriptor = open(path, O_RDONLY | O_CLOEXEC)
        isOwn = true
        guard descriptor >= 0 else { throw .local("\(SystemError("open", path, errno: errno))") }
    }

    deinit { if isOwn, descriptor >= 0 { close(descriptor) } }

    /// Calls `take` with what is there, again and again, and with `nil` at the end.
    /// - Parameter take: returns false where it wants no more.
    func watch(_ take: @escaping ([UInt8]?) -> Bool) throws(TalkingFailure) {
        do throws(DtlsError) {
            let event = try iosched.event(.read, descriptor) { self.read(take) }
            do throws(DtlsError) {
                try iosched.add(event)
            } catch {
                // epoll takes no regular files (EPERM): they are always ready.
                guard error.errno == EPERM else { throw error }
                try readInTurns(take)
            }
        } catch {
            throw .local(error)
        }
    }

    private func readInTurns(_ take: @escaping ([UInt8]?) -> Bool) throws(DtlsError) {
        try iosched.timer(after: 0) { if self.read(take) { try? self.readInTurns(take) } }
    }

    private func read(_ take: ([UInt8]?) -> Bool) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 16_384)
        let count = bytes.withUnsafeMutableBytes { Glibc.read(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR || errno == EAGAIN { return true }
        guard count > 0 else {
            _ = take(nil)
            return false
        }
        return take(Array(bytes[..<count]))
    }
}

/// Cuts a stream of bytes into messages: lines, or pieces of a size.
struct MessageCutter {
    enum Mode: Equatable {
        /// A message is a line without its newline; empty ones are left out, since no message is empty.
        case lines
        case pieces(size: Int)
    }

    let mode: Mode
    private var rest: [UInt8] = []

    init(_ mode: Mode) { self.mode = mode }

    mutating func messages(of bytes: [UInt8]) -> [[UInt8]] {
        switch mode {
        case .lines:
            var lines = (rest + bytes).split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
            rest = lines.popLast().map(Array.init) ?? []
            return lines.compactMap(Self.line)
        case .pieces(let size):
            return stride(from: 0, to: bytes.count, by: size).map { Array(bytes[$0..<min($0 + size, bytes.count)]) }
        }
    }

    /// What is left at the end of the stream.
    mutating func end() -> [[UInt8]] {
        defer { rest = [] }
        return [rest[...]].compactMap(Self.line)
    }

    private static func line(_ line: ArraySlice<UInt8>) -> [UInt8]? {
        let line = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
        return line.isEmpty ? nil : Array(line)
    }
}

/// Sends an input over a connection and prints what the server says, until one of the two has ended.
final class Conversation {
    private let connection: DtlsConnection
    private let input: InputSource
    private let isBinary: Bool
    private let patience: Duration
    private var cutter: MessageCutter
    private var failure: TalkingFailure?
    private var isDone = false
    /// Whether the server has ended the connection.
    private(set) var isClosedByServer = false
    /// When to end after the input has, unless the server says more.
    private var end: Instant?

    /// - Parameters:
    ///   - messageSize: of a message of binary input; `nil`: what the path takes.
    ///   - patience: how long answers are waited for after the end of the input.
    init(_ connection: DtlsConnection, _ input: InputSource, isBinary: Bool, messageSize: Int?, patience: Duration) {
        self.connection = connection
        self.input = input
        self.isBinary = isBinary
        self.patience = patience
        cutter = MessageCutter(isBinary ? .pieces(size: messageSize ?? max(1, connection.largestMessage)) : .lines)
    }

    func run(until isCancelled: () -> Bool) throws(TalkingFailure) {
        do throws(DtlsError) {
            try iosched.add(
                iosched.event(.read, connection.sockFd) { [unowned self] in
                    printMessages()
                    return !isDone
                })
        } catch {
            throw .local(error)
        }
        try input.watch { [unowned self] in take($0) }
        while !isDone, !isCancelled() {
            if let end, Instant.now() >= end { break }
            do throws(DtlsError) { try iosched.poll(timeout: end == nil ? nil : 20) } catch { throw .local(error) }
        }
        if let failure { throw failure }
    }

    private func take(_ bytes: [UInt8]?) -> Bool {
        guard !isDone else { return false }
        for message in bytes.map({ cutter.messages(of: $0) }) ?? cutter.end() {
            do throws(DtlsError) {
                try connection.send(message)
            } catch {
                finish(TalkingFailure(transfer: error, largest: connection.largestMessage))
                return false
            }
        }
        if bytes == nil { end = Instant.now() + patience }
        return true
    }

    private func printMessages() {
        var buffer = [UInt8](repeating: 0, count: 16_384)
        do throws(DtlsError) {
            while !isDone {
                let count = try connection.recv(&buffer, timeout: 0)
                if count == 0 { return }
                if end != nil { end = Instant.now() + patience }
                if !printMessage(Array(buffer[..<count])) { finish(nil) }
            }
        } catch {
            if error == .closed {
                isClosedByServer = true
                finish(nil)
            } else {
                finish(TalkingFailure(transfer: error))
            }
        }
    }

    private func printMessage(_ message: [UInt8]) -> Bool {
        if isBinary { return Standard.output(message) }
        let text = TerminalText.printable(message: message)
        return Standard.output(text.hasSuffix("\n") ? text : text + "\n")
    }

    private func finish(_ failure: TalkingFailure?) {
        self.failure = failure
        isDone = true
    }
}
