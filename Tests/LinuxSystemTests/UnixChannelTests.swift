import CLinux
import Glibc
import LinuxSystem
import TestSupport
import Testing

/// Two ends of a channel, and what a test does with them.
private final class Ends {
    var one: FileDescriptor
    var other: FileDescriptor

    init() throws {
        var pair = try UnixChannel.pair()
        one = pair.one.take()
        other = pair.other.take()
    }

    func send(_ bytes: [UInt8]) throws -> Bool {
        try bytes.withUnsafeBytes { try UnixChannel.send($0, over: one) }
    }

    func send(_ bytes: [UInt8], with descriptor: borrowing FileDescriptor) throws -> Bool {
        let raw = descriptor.rawValue
        return try bytes.withUnsafeBytes { try UnixChannel.send($0, descriptor: raw, over: one) }
    }

    /// Sends a message with several descriptors, which ``UnixChannel`` does not.
    func send(_ bytes: [UInt8], with descriptors: [Int32]) throws {
        var bytes = bytes
        let size = descriptors.count * MemoryLayout<Int32>.size
        let sent = bytes.withUnsafeMutableBytes { bytes in
            var vector = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
            return withUnsafeMutablePointer(to: &vector) { vector in
                withUnsafeTemporaryAllocation(byteCount: cl_cmsg_space(size), alignment: 8) { control in
                    var header = msghdr()
                    header.msg_iov = vector
                    header.msg_iovlen = 1
                    header.msg_control = control.baseAddress
                    header.msg_controllen = control.count
                    let first = cl_cmsg_first(&header)
                    first?.pointee.cmsg_level = SOL_SOCKET
                    first?.pointee.cmsg_type = Int32(SCM_RIGHTS)
                    first?.pointee.cmsg_len = cl_cmsg_len(size)
                    descriptors.withUnsafeBytes { source in
                        if let from = source.baseAddress {
                            cl_cmsg_data(first)?.copyMemory(from: from, byteCount: size)
                        }
                    }
                    return sendmsg(one.rawValue, &header, 0)
                }
            }
        }
        try #require(sent == bytes.count)
    }

    enum Received: Equatable {
        case nothing
        case end
        /// The number of the descriptor that came with the message, whose owner has closed it since.
        case message([UInt8], inode: UInt? = nil, descriptorWasLost: Bool = false)
    }

    func receive(room: Int = UnixChannel.maximumMessageSize) throws -> Received {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: room, alignment: 16)
        defer { buffer.deallocate() }
        let received = try UnixChannel.receive(into: buffer, from: other)
        switch consume received {
        case .nothing: return .nothing
        case .end: return .end
        case .message(let count, .some(let descriptor), let lost):
            return .message(Array(buffer[..<count]), inode: try inode(of: descriptor), descriptorWasLost: lost)
        case .message(let count, nil, let lost):
            return .message(Array(buffer[..<count]), descriptorWasLost: lost)
        }
    }
}

private func inode(of descriptor: borrowing FileDescriptor) throws -> UInt {
    var status = stat()
    try #require(fstat(descriptor.rawValue, &status) == 0)
    return status.st_ino
}

@Suite struct UnixChannelTests {
    /// A process that is killed leaves messages unread. The kernel then reports ECONNRESET before the messages that the
    /// process has sent.
    @Test func `what an end has sent is read, though it was closed with messages unread`() async throws {
        let ends = try Ends()
        #expect(try [9].withUnsafeBytes { try UnixChannel.send($0, over: ends.other) })
        #expect(try ends.send([1]))
        #expect(try ends.send([2]))
        _ = ends.one.take()
        #expect(try ends.receive() == .message([1]))
        #expect(try ends.receive() == .message([2]))
        // A program that another test starts at this moment has a copy of the end until it is executed.
        try await eventually("the channel ends") { try ends.receive() == .end }
        #expect(try ends.receive() == .end)
    }

    @Test func `messages arrive whole and in their order`() throws {
        let ends = try Ends()
        let messages: [[UInt8]] = [[1], [UInt8](repeating: 2, count: 60_000), [3, 3]]
        for message in messages { #expect(try ends.send(message)) }
        for message in messages { #expect(try ends.receive() == .message(message)) }
        #expect(try ends.receive() == .nothing)
    }

    @Test func `a message of the maximal size arrives`() throws {
        let ends = try Ends()
        let message = [UInt8](repeating: 7, count: UnixChannel.maximumMessageSize)
        #expect(try ends.send(message))
        #expect(try ends.receive() == .message(message))
    }

    @Test func `a message that does not fit into the reader's memory is lost alone`() throws {
        let ends = try Ends()
        let file = try MemoryFile.make([1], name: "attached")
        #expect(try ends.send([1, 2, 3, 4, 5], with: file))
        #expect(try ends.send([6]))
        #expect(throws: SystemError("recvmsg", "a channel", errno: EMSGSIZE)) { try ends.receive(room: 4) }
        #expect(try ends.receive(room: 4) == .message([6]))
    }

    @Test func `of several descriptors with a message the first is taken and the others are closed`() throws {
        let ends = try Ends()
        let first = try MemoryFile.make([1], name: "attached")
        let second = try Ends()
        try ends.send([1], with: [first.rawValue, second.one.rawValue])
        _ = second.one.take()
        #expect(try second.receive() == .nothing, "the message keeps the descriptor open")
        #expect(try ends.receive() == .message([1], inode: try inode(of: first)))
        #expect(try second.receive() == .end)
    }

    @Test func `the descriptor of a message that does not fit is closed`() throws {
        let ends = try Ends()
        let attached = try Ends()
        #expect(try ends.send([1, 2], with: attached.one))
        _ = attached.one.take()
        #expect(try attached.receive() == .nothing, "the message keeps the descriptor open")
        #expect(throws: SystemError.self) { try ends.receive(room: 1) }
        #expect(try attached.receive() == .end)
    }

    @Test func `a full channel takes a message again when one has been read`() throws {
        let ends = try Ends()
        let message = [UInt8](repeating: 1, count: 4_096)
        var sent = 0
        while try ends.send(message) { sent += 1 }
        #expect(sent > 1)
        #expect(try !ends.send(message), "nothing has been read yet")
        for _ in 0..<sent { #expect(try ends.receive() == .message(message)) }
        #expect(try ends.receive() == .nothing, "the refused message was not sent")
        #expect(try ends.send(message))
    }

    @Test func `the end comes after the messages before it`() throws {
        let ends = try Ends()
        #expect(try ends.send([1]))
        _ = ends.one.take()
        #expect(try ends.receive() == .message([1]))
        #expect(try ends.receive() == .end)
        #expect(try ends.receive() == .end)
    }

    @Test func `sending to an end that is gone fails with EPIPE`() throws {
        let ends = try Ends()
        _ = ends.other.take()
        #expect(throws: SystemError("sendmsg", "a channel", errno: EPIPE)) { try ends.send([1]) }
    }

    @Test func `what an end had not read when it was closed is the end for the other`() throws {
        let ends = try Ends()
        #expect(try ends.send([1]))
        // Unread messages make the kernel report ECONNRESET to the sender (unix(7)).
        swap(&ends.one, &ends.other)
        _ = ends.one.take()
        #expect(try ends.receive() == .end)
    }

    @Test func `a descriptor arrives as another one of the same open file, closed on exec`() throws {
        let ends = try Ends()
        let file = try MemoryFile.make([1, 2, 3], name: "attached")
        #expect(try ends.send([1], with: file))
        #expect(try ends.send([2]))
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16, alignment: 16)
        defer { buffer.deallocate() }
        let received = try UnixChannel.receive(into: buffer, from: ends.other)
        guard case .message(1, .some(let copy), false) = consume received else {
            Issue.record("no message with a descriptor")
            return
        }
        #expect(copy.rawValue != file.rawValue)
        #expect(try MemoryFile.read(copy) == [1, 2, 3])
        #expect(fcntl(copy.rawValue, F_GETFD) == FD_CLOEXEC)
        #expect(try ends.receive() == .message([2]), "the next message has none")
    }

    @Test func `a message arrives without its descriptor where the reader has no number left for one`() throws {
        let received = try OwnThread.run(freeDescriptors: 3) {
            let ends = try Ends()
            let file = try MemoryFile.make([1], name: "attached")
            try #require(try ends.send([1], with: file))
            try #require(try ends.send([2], with: file))
            let first = try ends.receive()
            _ = ends.one.take()
            return [first, try ends.receive()]
        }
        #expect(received.first == .message([1], descriptorWasLost: true))
        guard case .message([2], .some, false) = received.last else {
            Issue.record("there was room for the second descriptor: \(received)")
            return
        }
    }
}
