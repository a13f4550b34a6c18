// What happens to a server, a connection, a task or a loop that is used on another thread than its own, for the tests.
// Usage: DTLSKitThreads CALL, in a folder with cert.pem and cert.key. It does the call on a second thread, and says
// "survived" where that has not ended the process.
import DTLSKit
import Glibc

try DtlsTask.run(["task": { try iosched.forever() }])

/// The compiler would not let these go to another thread: who works around it, as here, is told when the program runs.
struct Smuggled: @unchecked Sendable {
    var server: DtlsServer
    var connection: DtlsConnection?
    var task: DtlsTask
    var loop: Iosched
    var event: Iosched.Event
    var timer: Iosched.Timer
}

func onAnotherThread(_ work: @escaping () -> Void) {
    final class Box {
        let work: () -> Void
        init(_ work: @escaping () -> Void) { self.work = work }
    }
    var thread = pthread_t()
    pthread_create(
        &thread, nil,
        { pointer in
            if let pointer { Unmanaged<Box>.fromOpaque(pointer).takeRetainedValue().work() }
            return nil
        }, Unmanaged.passRetained(Box(work)).toOpaque())
    pthread_join(thread, nil)
}

func make() throws -> Smuggled {
    let certificate = try Dtls.readString("./cert.pem")
    let server = try Dtls.createServer(
        DtlsServerOption(cert: certificate, key: try Dtls.readString("./cert.key")), try Dtls.sockaddr("127.0.0.1", 0))
    // It never gets an answer, and needs none.
    let connection = try Dtls.createClient(DtlsClientOption(), try Dtls.sockaddr("127.0.0.1", 9)) { _, _ in }
    let loop = try iosched
    return Smuggled(
        server: server, connection: connection, task: try DtlsTask("task"), loop: loop,
        event: loop.event(.read, 0) { false }, timer: try loop.timer(after: 60_000) {})
}

func calls(_ it: Smuggled, _ certificate: DtlsCertificateOption) -> [String: () throws -> Void] {
    var buffer = [UInt8](repeating: 0, count: 16)
    var calls: [String: () throws -> Void] = [
        "DtlsServer.addcert": { try it.server.addcert(certificate) },
        "DtlsServer.accept(timeout:)": { _ = try it.server.accept(timeout: 0) },
        "DtlsServer.accept(_:)": { it.server.accept { _, _ in } },
        "DtlsServer.onHandshakeFailure": { it.server.onHandshakeFailure { _, _ in } },
        "DtlsServer.onPresharedKey": { it.server.onPresharedKey { _ in } },
        "DtlsServer.counters": { _ = it.server.counters },
        "DtlsServer.setTicketKeys": { try it.server.setTicketKeys([]) },
        "DtlsServer.onPeer": { it.server.onPeer { _ in } },
        "DtlsTask.pid": { _ = it.task.pid },
        "DtlsTask.isRunning": { _ = it.task.isRunning },
        "DtlsTask.restart": { try it.task.restart() },
        "DtlsTask.terminate": { it.task.terminate() },
        "DtlsTask.send": { try it.task.send(["a": .null]) },
        "DtlsTask.onMessage": { it.task.onMessage { _ in } },
        "DtlsTask.onExit": { it.task.onExit { _, _ in } },
        "Iosched.processPending": { try it.loop.processPending() },
        "Iosched.pollDescriptor": { _ = it.loop.pollDescriptor },
        "Iosched.millisecondsToDeadline": { _ = it.loop.millisecondsToDeadline },
        "Iosched.poll": { try it.loop.poll(timeout: 0) },
        "Iosched.forever": { try it.loop.forever() },
        "Iosched.stop": { it.loop.stop() },
        "Iosched.event": { _ = it.loop.event(.read, 0) { false } },
        "Iosched.add": { try it.loop.add(it.event) },
        "Iosched.remove": { it.loop.remove(it.event) },
        "Iosched.timer": { try it.loop.timer(after: 1) {} },
        "Event.add": { try iosched.add(it.event) },
        "Event.remove": { try iosched.remove(it.event) },
        "Timer.cancel": { it.timer.cancel() },
    ]
    guard let connection = it.connection else { return calls }
    calls["DtlsConnection.isEstablished"] = { _ = connection.isEstablished }
    calls["DtlsConnection.send(_:timeout:)"] = { try connection.send("a") }
    calls["DtlsConnection.send(_:offset:length:timeout:)"] = { try connection.send([1]) }
    calls["DtlsConnection.recv"] = { _ = try connection.recv(&buffer) }
    calls["DtlsConnection.pending"] = { _ = connection.pending() }
    calls["DtlsConnection.largestMessage"] = { _ = connection.largestMessage }
    calls["DtlsConnection.session"] = { _ = connection.session }
    calls["DtlsConnection.flyAway"] = { connection.flyAway() }
    calls["DtlsConnection.suspend"] = { _ = try connection.suspend() }
    calls["DtlsConnection.isAlive"] = { _ = try connection.isAlive() }
    calls["DtlsConnection.agreement"] = { _ = connection.agreement }
    calls["DtlsConnection.roundTrips"] = { _ = connection.roundTrips }
    calls["DtlsConnection.serverCertificate"] = { _ = connection.serverCertificate }
    calls["DtlsConnection.resumableSession"] = { _ = connection.resumableSession }
    calls["DtlsConnection.connectionIDs"] = { _ = connection.connectionIDs }
    calls["DtlsConnection.checksReturnRoutability"] = { _ = connection.checksReturnRoutability }
    calls["DtlsConnection.onPeer"] = { connection.onPeer { _ in } }
    calls["DtlsConnection.peer"] = { _ = connection.peer }
    calls["DtlsConnection.exportKeyingMaterial"] = {
        _ = try connection.exportKeyingMaterial(label: "a", length: 1)
    }
    calls["DtlsConnection.counters"] = { _ = connection.counters }
    calls["DtlsConnection.srtpKeys"] = { _ = connection.srtpKeys }
    calls["DtlsConnection.onAddressChange"] = { connection.onAddressChange { _, _ in } }
    for (name, socket) in [("DtlsServer", it.server as DtlsSocket), ("DtlsConnection", connection)] {
        calls["\(name).sockFd"] = { _ = socket.sockFd }
        calls["\(name).close"] = { socket.close() }
        calls["\(name).error"] = { _ = socket.error() }
        calls["\(name).sockName"] = { _ = try socket.sockName() }
        calls["\(name).peerName"] = { _ = try socket.peerName() }
        calls["\(name).bindToDevice"] = { try socket.bindToDevice() }
        calls["\(name).setTTL"] = { try socket.setTTL(1) }
        calls["\(name).setIPv6Only"] = { try socket.setIPv6Only(true) }
        calls["\(name).getRecvBufferSize"] = { _ = try socket.getRecvBufferSize() }
        calls["\(name).getSendBufferSize"] = { _ = try socket.getSendBufferSize() }
        calls["\(name).setRecvBufferSize"] = { try socket.setRecvBufferSize(4_096) }
        calls["\(name).setSendBufferSize"] = { try socket.setSendBufferSize(4_096) }
    }
    return calls
}

/// What is safe: an address, and what is left of a thread that has ended.
func useSafely() throws {
    nonisolated(unsafe) var rest: Smuggled?
    onAnotherThread { rest = try? make() }
    guard let rest, let connection = rest.connection else { return print("nothing was made") }
    guard connection.remote.port == 9, !connection.isEstablished, connection.sockFd == -1, rest.server.sockFd == -1,
        !rest.task.isRunning
    else { return print("something is still open") }
    connection.close()
    rest.server.close()
    do {
        try connection.send("a")
    } catch DtlsError.notOpen {
        print("survived")
    }
}

let name = CommandLine.arguments.dropFirst().first ?? ""
if name == "list" {
    let option = DtlsCertificateOption(name: "a", cert: "")
    for name in calls(try make(), option).keys.sorted() { print(name) }
} else if name == "safe" {
    try useSafely()
} else if name == "deinit" {
    nonisolated(unsafe) var server: DtlsServer? = try make().server
    onAnotherThread { server = nil }
    print("survived", server == nil)
} else {
    let it = try make()
    guard let call = calls(it, DtlsCertificateOption(name: "a", cert: ""))[name] else { exit(2) }
    nonisolated(unsafe) let work = call
    onAnotherThread { do { try work() } catch { print(error) } }
    print("survived")
}
