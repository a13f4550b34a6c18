import Foundation
import Synchronization
import TestSupport

/// An authorizer that the test is, on a thread of its own until it is stopped or goes away.
final class TestAuthorizer: Sendable {
    /// What is of interest of a question.
    struct Question: Equatable, Sendable {
        var id: String
        var service: String?
        var address: String?
        var identity: String?
        var commonName: String?
        var fingerprint: String?
        var serverName: String?
        var isResumed: Bool

        fileprivate init?(_ bytes: [UInt8]) {
            guard let json = try? JSONSerialization.jsonObject(with: Data(bytes)) as? [String: Any],
                let id = json["id"] as? String, let isResumed = json["resumed"] as? Bool
            else { return nil }
            self.id = id
            self.isResumed = isResumed
            service = json["service"] as? String
            address = (json["peer"] as? [String: Any])?["address"] as? String
            identity = json["psk_identity"] as? String
            serverName = json["server_name"] as? String
            let certificate = json["certificate"] as? [String: Any]
            commonName = certificate?["common_name"] as? String
            fingerprint = certificate?["fingerprint"] as? String
        }
    }

    enum Answer: Sendable {
        /// The members of the answer beside its id.
        case members(String)
        /// A datagram.
        case raw(String)
        /// None, until ``release(_:)``.
        case later
    }

    private struct State {
        var questions: [Question] = []
        var held: [(id: String, sender: DatagramSocket.Sender)] = []
    }

    private final class Shared: Sendable {
        let state = Mutex(State())
        let isStopped = Atomic<Bool>(false)
        let hasEnded = Atomic<Bool>(false)
    }

    private let shared = Shared()
    private let path: String
    private let socket: DatagramSocket

    init(at path: String, answer: @escaping @Sendable (Question) -> Answer) throws {
        self.path = path
        let socket = try DatagramSocket(atPath: path)
        self.socket = socket
        Thread.detachNewThread { [shared] in
            while !shared.isStopped.load(ordering: .relaxed) {
                guard let (bytes, sender) = socket.receive(), let question = Question(bytes) else {
                    continue
                }
                shared.state.withLock { $0.questions.append(question) }
                switch answer(question) {
                case .members(let members): socket.send(Self.datagram(question.id, members), to: sender)
                case .raw(let text): socket.send(Array(text.utf8), to: sender)
                case .later: shared.state.withLock { $0.held.append((question.id, sender)) }
                }
            }
            shared.hasEnded.store(true, ordering: .releasing)
        }
    }

    deinit { shared.isStopped.store(true, ordering: .relaxed) }

    private static func datagram(_ id: String, _ members: String) -> [UInt8] {
        Array("{\"id\":\"\(id)\",\(members)}".utf8)
    }

    var questions: [Question] { shared.state.withLock { $0.questions } }

    /// Answers all that waits.
    func release(_ members: String) {
        let held = shared.state.withLock { state in
            defer { state.held = [] }
            return state.held
        }
        for (id, sender) in held { socket.send(Self.datagram(id, members), to: sender) }
    }

    /// Ends it, as if its process had.
    func stop() async throws {
        shared.isStopped.store(true, ordering: .relaxed)
        try await eventually("the authorizer ends") { shared.hasEnded.load(ordering: .acquiring) }
        socket.stopReceiving()
        unlink(path)
    }
}

/// Asks until a condition holds that takes a program to be known, for at most a minute or so.
func repeatedly(_ what: String, _ condition: () async throws -> Bool) async throws {
    for _ in 0..<600 {
        if try await condition() { return }
        // Only the pause between two questions.
        try await Task.sleep(for: .milliseconds(50))
    }
    throw NeverHappened(description: "this never happened: \(what)")
}
