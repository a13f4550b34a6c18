import Glibc
import LinuxSystem
import Primitives

/// Who reads a channel.
package protocol MessageChannelDelegate: AnyObject {
    /// `message` is valid during the call. `descriptor` is `nil` where none came, or where this process had none left
    /// for it (`descriptorWasLost`). A message that is longer than any may be comes as one without bytes, which no
    /// process sends either.
    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool)
    /// The other process is gone. Called once.
    func channelEnded(_ channel: MessageChannel)
}

/// One end of the channel between two processes of one program, in the loop.
package final class MessageChannel: EventHandler {
    private var descriptor: FileDescriptor
    private let loop: EventLoop
    private unowned let delegate: any MessageChannelDelegate
    private var registration: EventLoop.Registration?
    private let buffer = UnsafeMutableRawBufferPointer.allocate(
        byteCount: UnixChannel.maximumMessageSize, alignment: 16)
    /// Messages that must not be lost, waiting for room.
    private var waiting: [Waiting] = []
    private var wantsRoom = false
    /// Is called when there is room again in a channel that was full.
    package var onRoom: () -> Void = {}
    /// What ``whenAllIsSent(_:)`` was given, while messages wait.
    private var whenSent: (() -> Void)?
    /// Messages read before others get their turn.
    private static let messagesPerTurn = 64
    /// How long they may take, but for the first one; `nil`: as long as they do.
    package var longestTurn: Duration?
    /// Whether each message is wiped once it was read, since there are secrets in some.
    package var wipesMessages = false

    /// The descriptor is closed when the message is sent, or with the channel.
    private final class Waiting {
        let bytes: [UInt8]
        let descriptor: FileDescriptor
        init(_ bytes: [UInt8], _ descriptor: consuming FileDescriptor) {
            self.bytes = bytes
            self.descriptor = descriptor
        }
    }

    package init(
        _ descriptor: consuming FileDescriptor, loop: EventLoop, delegate: any MessageChannelDelegate
    ) throws(SystemError) {
        self.descriptor = descriptor
        self.loop = loop
        self.delegate = delegate
        registration = try loop.add(self.descriptor, .readable, self)
    }

    deinit { buffer.deallocate() }

    package var isOpen: Bool { registration != nil }

    /// Whether a message would have to wait.
    package var isFull: Bool { wantsRoom }

    /// Sends a message that may be lost, with a copy of `descriptor` (-1: none).
    /// - Returns: false when the channel is full or gone; nothing was sent then.
    package func offer(_ bytes: [UInt8], descriptor sent: Int32 = -1) -> Bool {
        guard isOpen, !wantsRoom, bytes.count <= UnixChannel.maximumMessageSize else { return false }
        if write(bytes, sent) { return true }
        waitForRoom()
        return false
    }

    /// Sends a message that must arrive: at once, or as soon as there is room, before all later ones.
    package func send(_ bytes: [UInt8], descriptor sent: consuming FileDescriptor = FileDescriptor(owning: -1)) {
        // The other end could not take more than this, whenever it came.
        guard isOpen, bytes.count <= UnixChannel.maximumMessageSize else { return }
        if !wantsRoom, write(bytes, sent.rawValue) { return }
        waiting.append(Waiting(bytes, sent))
        waitForRoom()
    }

    private func write(_ bytes: [UInt8], _ sent: Int32) -> Bool {
        // An error here (EPIPE, ECONNRESET) means that the other end is gone, which reading will report.
        (try? bytes.withUnsafeBytes { try UnixChannel.send($0, descriptor: sent, over: descriptor) }) ?? false
    }

    private func waitForRoom() {
        guard let registration, !wantsRoom else { return }
        wantsRoom = true
        try? loop.modify(descriptor, [.readable, .writable], registration)
    }

    package func ready(_ events: EventLoop.Events) {
        if events.contains(.writable) { writeWaiting() }
        let end = longestTurn.map { Instant.now() + $0 }
        for _ in 0..<Self.messagesPerTurn {
            guard receiveOne() else { return }
            if let end, Instant.now() >= end { return }
        }
    }

    /// Reads everything that the other process has sent. Call it when that process has ended: the channel holds what it
    /// said last, which may be more than one turn reads.
    package func readToEnd() {
        while receiveOne() {}
    }

    /// - Returns: whether there may be another message.
    private func receiveOne() -> Bool {
        guard isOpen else { return false }
        do throws(SystemError) {
            return try tryToReceiveOne()
        } catch {
            if error.errno == EMSGSIZE {
                delegate.channel(
                    self, received: UnsafeRawBufferPointer(rebasing: buffer[..<0]), descriptor: nil,
                    descriptorWasLost: false)
                return true
            }
            end()
            return false
        }
    }

    private func tryToReceiveOne() throws(SystemError) -> Bool {
        let received = try UnixChannel.receive(into: buffer, from: descriptor)
        switch consume received {
        case .nothing: return false
        case .end:
            end()
            return false
        case .message(let count, let attached, let lost):
            delegate.channel(
                self, received: UnsafeRawBufferPointer(rebasing: buffer[..<count]), descriptor: attached,
                descriptorWasLost: lost)
            if wipesMessages, let start = buffer.baseAddress { explicit_bzero(start, count) }
            return true
        }
    }

    private func writeWaiting() {
        while let first = waiting.first {
            guard write(first.bytes, first.descriptor.rawValue) else { return }
            waiting.removeFirst()
        }
        wantsRoom = false
        if let registration { try? loop.modify(descriptor, .readable, registration) }
        whenSent?()
        whenSent = nil
        onRoom()
    }

    /// Calls `work` once every message of ``send(_:descriptor:)`` has been sent, or the channel is closed: at once
    /// where none waits.
    package func whenAllIsSent(_ work: @escaping () -> Void) {
        if isOpen, !waiting.isEmpty { whenSent = work } else { work() }
    }

    private func end() {
        close()
        delegate.channelEnded(self)
    }

    /// Closes this end; the other process reads the end.
    package func close() {
        if let registration { loop.remove(descriptor, registration) }
        registration = nil
        waiting = []
        _ = descriptor.take()
        let work = whenSent
        whenSent = nil
        work?()
    }
}
