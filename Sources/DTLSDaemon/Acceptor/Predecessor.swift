import DTLSTransport
import Glibc
import LinuxSystem
import Primitives

/// The new process' side of an upgrade: the main process whose place it is to take, and the channel to it.
final class Predecessor: MessageChannelDelegate {
    /// What the main process has offered, before this process has a loop.
    struct Offer: ~Copyable {
        var channel: FileDescriptor
        /// As the service manager would pass them.
        let passed: [PassedDescriptor]
    }

    /// The main process has ended, or has not kept to the protocol, or offers what this program cannot take.
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// The main process sends its offer as soon as it has started this process.
    private static let offerTime = Duration.seconds(20)

    private var channel: MessageChannel?
    private let loop: EventLoop
    private var connections: [PassedDescriptor] = []
    /// What has gone wrong in this process, to be told when it ends.
    private var problems: [String] = []
    /// Whether the main process has handed its connections over, and serves no more.
    private(set) var hasHandedOver = false
    /// Is called with the files of connections, which nobody else touches any more.
    var onTakeOver: ([PassedDescriptor]) -> Void = { _ in }
    /// Is called when this process is the main process; with whether it is to reload.
    var onBecomeMain: (Bool) -> Void = { _ in }
    /// Is called when the main process has ended before it has handed anything over.
    var onLost: () -> Void = {}

    // MARK: Offer

    /// Reads what the main process offers over the channel that this process was started with. Waits for it.
    /// - Throws: when this program cannot take the offer, which the main process is told then.
    static func receiveOffer() throws -> Offer {
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        do {
            let passed = try receive(from: channel)
            return Offer(channel: channel, passed: passed)
        } catch {
            refuse("\(error)", over: channel)
            throw error
        }
    }

    private static func receive(from channel: borrowing FileDescriptor) throws -> [PassedDescriptor] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: UnixChannel.maximumMessageSize, alignment: 16)
        defer { buffer.deallocate() }
        let deadline = ContinuousClock.now + offerTime
        var passed: [PassedDescriptor] = []
        var isAccepted = false
        while true {
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { throw Failure(description: "the offer of the main process has not come in time") }
            var entry = pollfd(fd: channel.rawValue, events: Int16(POLLIN), revents: 0)
            _ = poll(&entry, 1, Int32(clamping: left.milliseconds))
            let received = try UnixChannel.receive(into: buffer, from: channel)
            switch consume received {
            case .nothing: continue
            case .end: throw Failure(description: "the main process has ended")
            case .message(let count, let attached, let descriptorWasLost):
                guard !descriptorWasLost else {
                    throw Failure(description: "the new process has no file descriptors left for what it is passed")
                }
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                let message = try MessageToSuccessor(decoding: bytes)
                switch message {
                case .offer(let protocolVersion, let layoutVersion):
                    try check(protocolVersion, layoutVersion)
                    isAccepted = true
                case .descriptor(let name) where isAccepted:
                    if let attached { passed.append(PassedDescriptor(name, attached)) }
                case .prepare where isAccepted: return passed
                default: throw Failure(description: "the main process did not keep to the protocol")
                }
            }
        }
    }

    private static func check(_ protocolVersion: UInt32, _ layoutVersion: UInt32) throws(Failure) {
        guard protocolVersion == MessageToSuccessor.protocolVersion else {
            throw Failure(
                description: "the new program knows version \(MessageToSuccessor.protocolVersion) of upgrades, and the"
                    + " one that runs has version \(protocolVersion): restart the daemon instead")
        }
        guard layoutVersion == SlotFile.layoutVersion else {
            throw Failure(
                description: "the new program knows connections of layout \(SlotFile.layoutVersion), and those that are"
                    + " there have layout \(layoutVersion): a restart loses them")
        }
    }

    /// Tells the main process why this process ends.
    static func refuse(_ reason: String, over channel: borrowing FileDescriptor) {
        let bytes = MessageFromSuccessor.refused(reason: reason).bytes
        // Where the channel is closed, nobody is there to be told.
        bytes.withUnsafeBufferPointer { buffer in
            _ = try? UnixChannel.send(UnsafeRawBufferPointer(buffer), over: channel)
        }
    }

    // MARK: After the offer

    init(_ channel: consuming FileDescriptor, loop: EventLoop) throws(SystemError) {
        self.loop = loop
        self.channel = try MessageChannel(channel, loop: loop, delegate: self)
    }

    func send(_ message: MessageFromSuccessor) { channel?.send(message.bytes) }

    /// Notes what has gone wrong, to be told by ``refuse(_:)``.
    func note(_ problem: String) { problems.append(problem) }

    /// Tells the main process why this process ends: what was noted, or else `reason`.
    func refuse(_ reason: String) {
        send(.refused(reason: problems.isEmpty ? reason : problems.joined(separator: "; ")))
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let decoded = try? MessageToSuccessor(decoding: message), !descriptorWasLost else {
            refuse("the connections did not arrive")
            channel.close()
            return channelEnded(channel)
        }
        switch decoded {
        case .descriptor(let name):
            if let attached = descriptor { connections.append(PassedDescriptor(name, attached)) }
        case .takeOver:
            hasHandedOver = true
            let files = connections
            connections = []
            onTakeOver(files)
        case .becomeMain(let isReloadRequested): finish(isReloadRequested: isReloadRequested)
        case .offer, .prepare: break
        }
    }

    private func finish(isReloadRequested: Bool) {
        guard let channel else { return }
        self.channel = nil
        channel.close()
        onBecomeMain(isReloadRequested)
    }

    /// Without a word: the main process has died. Once it has handed over, this process is all that is left.
    func channelEnded(_ channel: MessageChannel) {
        guard self.channel != nil else { return }
        if hasHandedOver {
            finish(isReloadRequested: false)
        } else {
            self.channel = nil
            onLost()
        }
    }
}
