import DTLSKit
import Foundation
import Synchronization
import TestSupport

/// Runs what blocks on a thread of its own, and waits for it without blocking the caller's. What has not ended after five
/// minutes is left behind, and is an error: a test that hangs fails, and the others have their turn.
func onThread<Value: Sendable>(
    file: String = #fileID, line: Int = #line, _ work: @escaping @Sendable () throws -> Value
) async throws -> Value {
    let waiting = Waiting<Value>()
    return try await withCheckedThrowingContinuation { continuation in
        waiting.continuation.withLock { $0 = continuation }
        let limit = Task {
            try await Task.sleep(for: .seconds(300))
            waiting.resume(.failure(NeverHappened(description: "the thread of \(file):\(line) has not ended in 300 s")))
        }
        Thread {
            waiting.resume(Result(catching: work))
            limit.cancel()
        }.start()
    }
}

/// Whom the first outcome is for.
private final class Waiting<Value: Sendable>: Sendable {
    let continuation = Mutex<CheckedContinuation<Value, any Error>?>(nil)

    func resume(_ outcome: Result<Value, any Error>) {
        continuation.withLock { waiting in
            defer { waiting = nil }
            return waiting
        }?.resume(with: outcome)
    }
}

/// A server on a thread of its own, which answers every message of its clients until it is told to stop.
final class EchoServer: Sendable {
    let address: DtlsAddress
    private let thread: Task<Void, any Error>
    private let shared: Shared

    /// What both threads look at.
    private final class Shared: Sendable {
        let failures = Mutex<[DtlsError]>([])
        let isStopped = Mutex(false)
    }

    var handshakeErrors: [DtlsError] { shared.failures.withLock { $0 } }

    /// - Parameter prepare: called with the server before any client comes.
    init(
        _ option: DtlsServerOption, on host: String = "127.0.0.1",
        prepare: @escaping @Sendable (DtlsServer) throws -> Void = { _ in }
    ) async throws {
        let (addresses, continuation) = AsyncThrowingStream.makeStream(of: DtlsAddress.self)
        let shared = Shared()
        self.shared = shared
        thread = Task {
            try await onThread {
                do {
                    try Self.run(option, host, prepare, shared) { continuation.yield($0) }
                } catch {
                    continuation.finish(throwing: error)
                    throw error
                }
            }
        }
        var iterator = addresses.makeAsyncIterator()
        guard let address = try await iterator.next() else { throw CancellationError() }
        self.address = address
    }

    private static func run(
        _ option: DtlsServerOption, _ host: String, _ prepare: (DtlsServer) throws -> Void, _ shared: Shared,
        _ bound: (DtlsAddress) -> Void
    ) throws {
        let server = try Dtls.createServer(option, DtlsAddress(addr: host, port: 0))
        try prepare(server)
        server.onHandshakeFailure { error, _ in shared.failures.withLock { $0.append(error) } }
        server.accept { client, _ in
            var buffer = [UInt8](repeating: 0, count: 16_384)
            let event = try? iosched.event(.read, client.sockFd) {
                do {
                    while true {
                        let count = try client.recv(&buffer, timeout: 0)
                        if count == 0 { return true }
                        try client.send(buffer, length: count)
                    }
                } catch {
                    client.close()
                    return false
                }
            }
            if let event { try? iosched.add(event) }
        }
        bound(try server.sockName())
        while !shared.isStopped.withLock({ $0 }) { try iosched.poll(timeout: 50) }
        server.close()
    }

    func stop() async throws {
        shared.isStopped.withLock { $0 = true }
        try await thread.value
    }
}
