import Foundation
import Synchronization
import TestSupport

/// A service behind the daemon: numbers its clients from 0 by where their datagrams come from, remembers each datagram,
/// and answers with what `answer` says. It runs on a thread of its own until it is stopped or goes away.
final class Backend: Sendable {
    struct Received: Equatable, Sendable {
        var client: Int
        var bytes: [UInt8]
        var text: String { String(decoding: bytes, as: UTF8.self) }
    }

    private final class Shared: Sendable {
        let received = Mutex<[Received]>([])
        let isStopped = Atomic<Bool>(false)
        let hasEnded = Atomic<Bool>(false)
    }
    private let shared = Shared()

    /// - Parameter sockets: where it serves; several for a name with several addresses.
    init(on sockets: [DatagramSocket], answer: @escaping @Sendable (Received) -> [[UInt8]]) {
        Thread.detachNewThread { [shared] in
            var senders: [DatagramSocket.Sender: Int] = [:]
            while !shared.isStopped.load(ordering: .relaxed) {
                DatagramSocket.wait(for: sockets)
                for socket in sockets {
                    guard let (bytes, sender) = socket.receiveAtOnce() else { continue }
                    let client = senders[sender] ?? senders.count
                    senders[sender] = client
                    let received = Received(client: client, bytes: bytes)
                    shared.received.withLock { $0.append(received) }
                    for reply in answer(received) { socket.send(reply, to: sender) }
                }
            }
            shared.hasEnded.store(true, ordering: .releasing)
        }
    }

    /// Answers every datagram with the client's number and the datagram: `3:hello`.
    static func numbering(on sockets: DatagramSocket...) -> Backend {
        Backend(on: sockets) { [Array("\($0.client):".utf8) + $0.bytes] }
    }

    deinit { shared.isStopped.store(true, ordering: .relaxed) }

    var received: [Received] { shared.received.withLock { $0 } }

    /// Ends the service; returns when its sockets are no longer used.
    func stop() async throws {
        shared.isStopped.store(true, ordering: .relaxed)
        try await eventually("the backend ends") { shared.hasEnded.load(ordering: .acquiring) }
    }
}
