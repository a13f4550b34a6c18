import CLinux
import ControlProtocol
import Glibc
import LinuxSystem
import Primitives

/// A connection to the control socket of a daemon.
final class ControlConnection {
    let path: String
    private let socket: FileDescriptor
    private var framing = LineFraming(maximum: ControlProtocol.maximumAnswerBytes)
    private var hasEnded = false

    /// For poll(2).
    var descriptor: Int32 { socket.rawValue }

    init(path: String) throws(ToolFailure) {
        self.path = path
        let opened = Glibc.socket(
            AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
        guard opened >= 0 else { throw Self.failure(path, errno) }
        socket = FileDescriptor(owning: opened)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let fits = withUnsafeMutableBytes(of: &address.sun_path) { place in
            guard !bytes.isEmpty, bytes.count < place.count, !bytes.contains(0) else { return false }
            place.copyBytes(from: bytes)
            return true
        }
        guard fits else { throw Self.failure(path, bytes.isEmpty ? ENOENT : ENAMETOOLONG) }
        let connected = withUnsafeBytes(of: &address) { storage in
            connect(
                opened, storage.baseAddress?.assumingMemoryBound(to: sockaddr.self),
                socklen_t(MemoryLayout<sockaddr_un>.size))
        }
        guard connected == 0 else { throw Self.failure(path, errno) }
    }

    // MARK: Requests

    /// Sends a request. Its answer is the next one after those of the requests before it.
    func send(_ command: ControlCommand, within limit: Duration = .seconds(10)) throws(ToolFailure) {
        var line: [UInt8]
        do {
            line = try ControlProtocol.encode(ControlRequest(command))
        } catch {
            throw ToolFailure(.failed, "The request cannot be written as JSON: \(error).")
        }
        line.append(UInt8(ascii: "\n"))
        let deadline = ContinuousClock.now + limit
        var rest = line[...]
        while !rest.isEmpty {
            let sent = rest.withUnsafeBytes {
                Glibc.send(socket.rawValue, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            if sent >= 0 {
                rest = rest.dropFirst(sent)
            } else if errno == EPIPE || errno == ECONNRESET {
                // The daemon has closed the connection, perhaps after a line that says why.
                return
            } else if errno == EAGAIN {
                try wait(for: POLLOUT, until: deadline)
            } else if errno != EINTR {
                throw ToolFailure(.unreachable, "\(path): \(String(cString: strerror(errno))).")
            }
        }
    }

    /// The next answer that has come; `nil` where none is whole yet.
    /// - Returns: a failure where the daemon has answered with an error.
    /// - Throws: where the daemon has closed the connection, or speaks another language.
    func receive() throws(ToolFailure) -> Result<ControlReply, ToolFailure>? {
        while true {
            switch framing.next() {
            case .line(let line): return try ControlReply.read(line)
            case .tooLong:
                throw ToolFailure(.failed, "\(path) has sent a line that is too long for an answer of dtlsd.")
            case nil: break
            }
            guard !hasEnded else {
                throw ToolFailure(
                    .unreachable,
                    "dtlsd has closed the connection without an answer. It has ended, or serves too many others.")
            }
            guard try read() else { return nil }
        }
    }

    /// - Returns: false when there is nothing to read at the moment.
    private func read() throws(ToolFailure) -> Bool {
        let count = withTemporaryBytes(65_536, alignment: 8) { buffer in
            let count = Glibc.recv(socket.rawValue, buffer.baseAddress, buffer.count, 0)
            if count > 0 { framing.append(UnsafeRawBufferPointer(rebasing: buffer[..<count])) }
            return count
        }
        if count > 0 { return true }
        if count < 0, errno == EAGAIN { return false }
        if count < 0, errno == EINTR { return true }
        hasEnded = true
        return true
    }

    /// Sends a request and waits for its answer.
    func ask(_ command: ControlCommand) throws(ToolFailure) -> ControlReply {
        let deadline = ContinuousClock.now + Self.patience(for: command)
        try send(command)
        while true {
            if let reply = try receive() { return try reply.get() }
            try wait(for: POLLIN, until: deadline)
        }
    }

    /// How long an answer may take. A reload takes as long as name servers do, and an upgrade as long as a start.
    private static func patience(for command: ControlCommand) -> Duration {
        switch command {
        case .reload, .upgrade: .seconds(300)
        default: .seconds(10)
        }
    }

    private func wait(for events: Int32, until deadline: ContinuousClock.Instant) throws(ToolFailure) {
        var poll = pollfd(fd: socket.rawValue, events: Int16(events), revents: 0)
        let left = (deadline - ContinuousClock.now).milliseconds
        guard left > 0, Glibc.poll(&poll, 1, Int32(clamping: left)) != 0 else {
            throw ToolFailure(
                .unreachable, "dtlsd does not answer: \(path) is open, but nothing has come over it for a while.")
        }
    }

    // MARK: Failures

    /// What to try where no daemon can be reached.
    private static func failure(_ path: String, _ code: Int32) -> ToolFailure {
        let advice =
            switch code {
            case ENOENT:
                "There is no control socket \(path). Is dtlsd running (systemctl status dtlsd)? If its configuration"
                    + " has another path in [control], name it with --socket or $\(ControlProtocol.pathVariable)."
            case ECONNREFUSED:
                "Nobody listens on \(path). Is dtlsd running (systemctl status dtlsd)? The file is there, but the dtlsd"
                    + " that has made it has ended."
            case EACCES, EPERM: denial(path)
            case EAGAIN:
                "dtlsd does not answer: too many others wait at \(path) already."
            case ENAMETOOLONG:
                "\(path) is too long for the path of a socket, which has at most 107 bytes."
            default: "\(path) cannot be connected to: \(String(cString: strerror(code)))."
            }
        return ToolFailure(.unreachable, advice)
    }

    /// The file whose permissions stand against this user is the socket, or a folder above it.
    private static func denial(_ path: String) -> String {
        let user = name(of: geteuid())
        var barrier = path
        var information = stat()
        while stat(barrier, &information) != 0, let slash = barrier.lastIndex(of: "/"), slash > barrier.startIndex {
            barrier = String(barrier[..<slash])
        }
        var group: String?
        if stat(barrier, &information) == 0, information.st_gid != 0 {
            group = getgrgid(information.st_gid).map { String(cString: $0.pointee.gr_name) } ?? "\(information.st_gid)"
        }
        let remedy =
            group.map {
                "Root may, and so may members of the group \($0): run it with sudo, or 'sudo usermod -aG \($0)"
                    + " \(user)', and log in again."
            } ?? "Run it with sudo."
        return "The user \(user) may not open \(path). \(remedy)"
    }

    private static func name(of user: uid_t) -> String {
        getpwuid(user).map { String(cString: $0.pointee.pw_name) } ?? "\(user)"
    }
}

/// An answer as it has come.
struct ControlReply {
    /// The JSON of the result, byte for byte.
    private let result: [UInt8]

    /// - Returns: the error that the daemon has answered with, as a failure.
    /// - Throws: where the line is no answer.
    fileprivate static func read(_ line: [UInt8]) throws(ToolFailure) -> Result<ControlReply, ToolFailure> {
        let answer: ControlAnswer<Unread>
        do {
            answer = try ControlProtocol.decode(ControlAnswer<Unread>.self, from: line)
        } catch {
            throw unreadable(error)
        }
        return answer.result.mapError(ToolFailure.init).map { _ in
            ControlReply(result: Array(JSONText.value(of: "result", in: line) ?? []))
        }
    }

    func decoded<Result: Decodable>(_ type: Result.Type = Result.self) throws(ToolFailure) -> Result {
        do {
            return try ControlProtocol.decode(type, from: result)
        } catch {
            throw Self.unreadable(error)
        }
    }

    /// The result for a program, and for a terminal.
    var json: String { JSONText.printable(result) }

    /// The JSON of one member of the result.
    func member(_ key: String) -> String {
        JSONText.value(of: key, in: result).map(JSONText.printable) ?? "null"
    }

    private static func unreadable(_ error: any Error) -> ToolFailure {
        ToolFailure(
            .failed,
            "The answer cannot be read: \(ControlProtocol.describe(error)). Perhaps dtlsd and dtls are of different"
                + " versions (dtls --version, dtls status --json).")
    }

    /// A result of any form.
    private struct Unread: Codable {
        init(from decoder: any Decoder) throws {}
    }
}

/// JSON as text.
enum JSONText {
    /// The text of what a key of the outermost object has as its value, without white space around it being removed.
    /// - Parameter line: valid JSON.
    static func value(of key: String, in line: [UInt8]) -> ArraySlice<UInt8>? {
        let key = Array(key.utf8)
        var depth = 0
        var isInString = false
        var isEscaped = false
        var lastString = 0..<0
        var start: Int?
        for (index, byte) in line.enumerated() {
            if isInString {
                if isEscaped {
                    isEscaped = false
                } else if byte == UInt8(ascii: "\\") {
                    isEscaped = true
                } else if byte == UInt8(ascii: "\"") {
                    isInString = false
                    lastString = lastString.lowerBound..<index
                }
                continue
            }
            switch byte {
            case UInt8(ascii: "\""):
                isInString = true
                lastString = (index + 1)..<(index + 1)
            case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
            case UInt8(ascii: "}"), UInt8(ascii: "]"):
                if depth == 1, let start { return line[start..<index] }
                depth -= 1
            case UInt8(ascii: ":"):
                if depth == 1, start == nil, line[lastString].elementsEqual(key) { start = index + 1 }
            case UInt8(ascii: ","):
                if depth == 1, let start { return line[start..<index] }
            default: break
            }
        }
        return nil
    }

    /// The same JSON, with escapes for all that a terminal might obey.
    static func printable(_ json: some Collection<UInt8>) -> String {
        var result = ""
        for scalar in String(decoding: json, as: UTF8.self).unicodeScalars {
            if Printable.isPrintable(scalar) {
                result.unicodeScalars.append(scalar)
            } else if scalar.value < 0x20 {
                // In valid JSON it can only be white space between tokens.
                result += " "
            } else {
                for unit in UTF16.encode(scalar).map(Array.init) ?? [] {
                    let digits = String(unit, radix: 16)
                    result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
                }
            }
        }
        return result
    }
}
