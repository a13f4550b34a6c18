import DTLSTransport
import LinuxSystem
import Primitives

/// The resolver's role: it looks host names up for the main process, which asks over descriptor 3, and ends with that
/// one. It decides nothing, and keeps nothing between two questions.
///
/// It is a separate process, since neither the main process nor a worker may parse what a name server sends.
final class Resolver: MessageChannelDelegate {
    private let loop: EventLoop
    private var channel: MessageChannel?
    private var lookups: [ObjectIdentifier: HostLookup] = [:]

    private let files: ResolverFiles

    /// Runs the role until it ends.
    static func run() throws {
        let files = ResolverFiles()
        let resolver = try Resolver(AuxiliaryProcess.begin(behind: .resolver(files)), files)
        #if DEBUG
            StandIn.actAsTold(in: "resolver")
        #endif
        try resolver.loop.run()
    }

    private init(_ channel: consuming FileDescriptor, _ files: ResolverFiles) throws {
        self.files = files
        loop = try EventLoop()
        self.channel = try MessageChannel(channel, loop: loop, delegate: self)
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let question = try? LookUpQuestion(decoding: message) else { return }
        // Another /etc/resolv.conf, which only another process can read.
        guard !files.haveChanged else { return channel.send(LookUpAnswer.wantsSuccessor) }
        var key: ObjectIdentifier?
        let lookup = HostLookup(question, loop: loop) { [unowned self] answer in
            self.channel?.send(answer.encode())
            if let key { lookups[key] = nil }
        }
        key = ObjectIdentifier(lookup)
        lookups[ObjectIdentifier(lookup)] = lookup
    }

    func channelEnded(_ channel: MessageChannel) { loop.stop() }
}
