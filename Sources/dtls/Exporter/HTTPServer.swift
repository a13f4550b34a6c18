import CLinux
import CMicrohttpd
import Glibc
import LinuxSystem
import Primitives

/// What is left of a request when its method and its path are known to be harmless.
struct HTTPRequest: Equatable {
    enum Method: String {
        case get = "GET"
        case head = "HEAD"
    }

    var method: Method
    /// Without the query.
    var path: String
    /// The header Accept.
    var accept: String
}

struct HTTPResponse {
    var status: UInt32
    var headers: [(name: String, value: String)]
    var body: [UInt8]

    init(status: UInt32 = 200, type: String, headers: [(name: String, value: String)] = [], body: [UInt8]) {
        self.status = status
        self.headers = [("Content-Type", type)] + headers
        self.body = body
    }

    /// An answer that says in one line why there is no other.
    init(status: UInt32, _ text: String, headers: [(name: String, value: String)] = []) {
        self.init(status: status, type: "text/plain; charset=utf-8", headers: headers, body: Array((text + "\n").utf8))
    }
}

/// An HTTP server for GET and HEAD on libmicrohttpd, which runs in the caller's loop and never waits.
///
/// A client can hold at most a connection, 16 KiB and the answer that it was sent, and that only for as long as
/// ``requestLimit``: then its connection is shut down, however busy it pretends to be. Where there are many connections, a
/// new one takes the place of the one that has been without a request for longest, so that nobody is kept out by those
/// who only hold theirs.
final class HTTPServer {
    /// Connections at once. Others wait in the kernel's queue.
    private static let connectionLimit: UInt32 = 64
    /// Connections above which a new one takes the place of another.
    private static let crowd = 48
    /// Bytes that a connection may take for a request and the headers of its answer.
    private static let connectionMemory = 16_384
    /// Without a byte in either direction, a connection is closed after so long.
    private static let idleSeconds: UInt32 = 30
    /// From the beginning of a connection, or the end of the request before, to the end of the next request.
    private static let requestLimit = Duration.seconds(60)

    /// libmicrohttpd's; nil once ``stop()`` was called.
    private var daemon: OpaquePointer?
    /// Where the answer to a request is decided.
    /// - Returns: `nil` where it is not known yet. It is asked for again after ``resume()``.
    private let answer: (HTTPRequest) -> HTTPResponse?
    /// Connections whose requests wait for an answer. libmicrohttpd does not touch them before they are resumed, so these
    /// pointers stay valid until then.
    private var waiting: [OpaquePointer] = []
    /// When the connection of each socket is shut down.
    private var deadlines: [Int32: Instant] = [:]

    /// Where clients come from now on; port 0 was replaced by the one that the kernel chose.
    let address: SocketAddress

    /// - Throws: where nobody can listen on `address`.
    init(on address: SocketAddress, answer: @escaping (HTTPRequest) -> HTTPResponse?) throws(ToolFailure) {
        self.answer = answer
        let listening = try Self.listeningSocket(on: address)
        self.address = Self.name(of: listening) ?? address
        // The server does not outlive this object: `deinit` stops it.
        let context = Unmanaged.passUnretained(self).toOpaque()
        daemon = cmicrohttpd_start(
            listening.rawValue, Self.connectionMemory, Self.connectionLimit, Self.idleSeconds,
            { context, connection, path, method, _, _, _, state in
                guard let context, let connection, let path, let method, let state else { return cmicrohttpd_no }
                return HTTPServer.of(context).handle(connection, path, method, state)
            },
            { context, connection, _, change in
                guard let context, let connection else { return }
                HTTPServer.of(context).note(connection, isOpen: change == cmicrohttpd_started)
            },
            { context, connection, _, _ in
                guard let context, let connection else { return }
                HTTPServer.of(context).note(connection, isOpen: true)
            },
            context)
        guard daemon != nil else { throw Self.failure(address, errno) }
        // libmicrohttpd closes it.
        _ = listening.release()
    }

    deinit { stop() }

    private static func listeningSocket(on address: SocketAddress) throws(ToolFailure) -> FileDescriptor {
        let type = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
        let raw = socket(address.family.domain, type, 0)
        guard raw >= 0 else { throw failure(address, errno) }
        let opened = FileDescriptor(owning: raw)
        var one: Int32 = 1
        setsockopt(raw, SOL_SOCKET, SO_REUSEADDR, &one, socklen_t(MemoryLayout<Int32>.size))
        var storage = sockaddr_storage()
        let length = address.write(to: &storage)
        let bound = withUnsafeBytes(of: &storage) {
            bind(raw, $0.baseAddress?.assumingMemoryBound(to: sockaddr.self), length)
        }
        guard bound == 0, listen(raw, 64) == 0 else { throw failure(address, errno) }
        return opened
    }

    private static func failure(_ address: SocketAddress, _ code: Int32) -> ToolFailure {
        ToolFailure(
            .failed,
            "Nobody can be served at \(address): \(String(cString: strerror(code))). --listen takes another address.")
    }

    private static func name(of socket: borrowing FileDescriptor) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let raw = socket.rawValue
        return withUnsafeMutableBytes(of: &storage) { bytes in
            guard let start = bytes.baseAddress,
                getsockname(raw, start.assumingMemoryBound(to: sockaddr.self), &length) == 0
            else { return nil }
            return SocketAddress(start, length: Int(length))
        }
    }

    private static func of(_ context: UnsafeMutableRawPointer) -> HTTPServer {
        Unmanaged<HTTPServer>.fromOpaque(context).takeUnretainedValue()
    }

    // MARK: The caller's loop

    /// Readable when ``run()`` has something to do.
    var descriptor: Int32 { daemon.map { cmicrohttpd_epoll_descriptor($0) } ?? -1 }

    /// How long ``run()`` need not be called while ``descriptor`` is not readable.
    func patience(at now: Instant) -> Duration {
        var milliseconds: UInt64 = 0
        var patience = Duration.seconds(3_600)
        if let daemon, MHD_get_timeout(daemon, &milliseconds) == cmicrohttpd_yes {
            patience = .milliseconds(min(milliseconds, 3_600_000))
        }
        if let first = deadlines.values.min() { patience = min(patience, max(.zero, first - now)) }
        return patience
    }

    /// Does what can be done without waiting.
    func run(at now: Instant) {
        for (socket, deadline) in deadlines where deadline <= now {
            // libmicrohttpd sees the end of it, and closes it.
            shutdown(socket, Int32(SHUT_RDWR))
            deadlines[socket] = now + Self.requestLimit
        }
        if let daemon { MHD_run(daemon) }
    }

    /// Asks for the answers again that were not known before, and sends them.
    func resume(at now: Instant) {
        resumeConnections()
        run(at: now)
    }

    private func resumeConnections() {
        let connections = waiting
        waiting = []
        for connection in connections { MHD_resume_connection(connection) }
    }

    /// Closes all connections, and listens no longer.
    func stop() {
        guard let daemon else { return }
        // libmicrohttpd does not end a connection that is suspended.
        resumeConnections()
        self.daemon = nil
        MHD_stop_daemon(daemon)
    }

    // MARK: What libmicrohttpd calls

    private func note(_ connection: OpaquePointer, isOpen: Bool) {
        let socket = cmicrohttpd_socket(connection)
        guard isOpen, socket >= 0 else {
            deadlines[socket] = nil
            return
        }
        deadlines[socket] = .now() + Self.requestLimit
        if deadlines.count > Self.crowd, let oldest = deadlines.min(by: { $0.value < $1.value })?.key {
            deadlines[oldest] = nil
            Glibc.shutdown(oldest, Int32(SHUT_RDWR))
        }
    }

    /// It is called once for the headers, and then for the end of the request, again after each resumption. An answer to
    /// the headers has the library close the connection after it, where more of the request is to come.
    private func handle(
        _ connection: OpaquePointer, _ path: UnsafePointer<CChar>, _ method: UnsafePointer<CChar>,
        _ state: UnsafeMutablePointer<UnsafeMutableRawPointer?>
    ) -> MHD_Result {
        if daemon == nil { return cmicrohttpd_no }
        let isNew = state.pointee == nil
        // Any pointer that is not null will do: it only says that the headers were seen.
        state.pointee = Unmanaged.passUnretained(self).toOpaque()
        guard let method = HTTPRequest.Method(rawValue: String(cString: method)) else {
            return send(
                HTTPResponse(status: 405, "Only GET and HEAD are answered here.", headers: [("Allow", "GET, HEAD")]),
                to: connection)
        }
        if isNew {
            guard !hasBody(connection) else {
                return send(HTTPResponse(status: 413, "A request has no body here."), to: connection)
            }
            return cmicrohttpd_yes
        }
        let request = HTTPRequest(
            method: method, path: String(cString: path), accept: header("Accept", of: connection) ?? "")
        if let response = answer(request) { return send(response, to: connection) }
        MHD_suspend_connection(connection)
        waiting.append(connection)
        return cmicrohttpd_yes
    }

    private func hasBody(_ connection: OpaquePointer) -> Bool {
        header("Transfer-Encoding", of: connection) != nil
            || ![nil, "0"].contains(header("Content-Length", of: connection))
    }

    private func header(_ name: String, of connection: OpaquePointer) -> String? {
        MHD_lookup_connection_value(connection, cmicrohttpd_header_kind, name).map { String(cString: $0) }
    }

    private func send(_ response: HTTPResponse, to connection: OpaquePointer) -> MHD_Result {
        var body = response.body
        let made = body.withUnsafeMutableBytes {
            MHD_create_response_from_buffer($0.count, $0.baseAddress, cmicrohttpd_copy)
        }
        guard let made else { return cmicrohttpd_no }
        // The connection has a reference of its own.
        defer { MHD_destroy_response(made) }
        let always = [
            ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
        ]
        for (name, value) in response.headers + always { MHD_add_response_header(made, name, value) }
        return MHD_queue_response(connection, response.status, made)
    }
}
