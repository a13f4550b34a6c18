import LinuxSystem
import TestSupport
import Testing

extension DatagramSocket {
    /// Says a hello until there is an answer.
    func ask(_ hello: [UInt8], of server: SocketAddress) async throws -> HelloAnswer {
        while receive() != nil {}
        var answer: HelloAnswer?
        try await eventually("the server answers") {
            send(hello, to: server)
            answer = receive().map { HelloAnswer($0.bytes) }
            return answer != nil
        }
        return try #require(answer)
    }
}
