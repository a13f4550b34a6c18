import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Logging
import Primitives

/// The loader's role. It reads the configuration file and everything that it names (certificates, keys),
/// sends the result over descriptor 3, and ends.
///
/// It is a separate process, so that neither a slow file system nor a defect in a parser can stop the acceptor.
enum Loader {
    /// The first byte of each message. A configuration and problems are attached in a memfd.
    enum Outcome: UInt8 {
        case configuration = 1
        case problems = 2
        /// An inotify descriptor, and the names that it watches. It is sent before the result.
        case watch = 3
        /// The open file for the secrets of connections. It is sent before the result.
        case keyLog = 4
        /// As ``watch``, for the other files that the configuration names. It is sent whether the configuration is good or
        /// not: a file that was half-written is to be read again.
        case credentialWatch = 5
        /// The private and pre-shared keys (`KeyMaterial`), in a memfd, which only the key process reads. It is sent before the result.
        case keys = 6
    }

    static func run(file: String, _ purpose: Role.Purpose) throws {
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        let (watcher, reason) = makeWatcher()
        let credentialWatcher = purpose == .serving ? makeWatcher().0 : nil
        var configuration: Configuration
        do throws(ConfigurationProblems) {
            configuration = try ConfigurationReader.read(
                file: file, watcher: watcher, credentialWatcher: credentialWatcher,
                prepare: { keys in wallIn(LoaderNeeds(keys)) },
                use: { configuration, context throws(ConfigurationProblems) in
                    guard purpose == .serving, let path = configuration.keyLogFile else { return }
                    try sendKeyLog(path, context, over: channel)
                })
        } catch {
            if let credentialWatcher { try send(credentialWatcher, as: .credentialWatch, over: channel) }
            return try send(.problems, BinaryCoding.encode(error), over: channel)
        }
        if configuration.watchesCredentials, purpose == .serving, credentialWatcher == nil, let reason {
            configuration.warnings.append(
                ConfigurationProblem(
                    file: file, line: nil, key: MainSection.schema.name(of: \.watchesCredentials),
                    message: "files cannot be watched (\(reason)); they are read again with the next reload alone"))
        }
        if let credentialWatcher { try send(credentialWatcher, as: .credentialWatch, over: channel) }
        if let reason, let staple = configuration.staples.first {
            configuration.warnings.append(
                ConfigurationProblem(
                    file: file, line: nil, key: staple.key,
                    message:
                        "files cannot be watched (\(reason)); they are read again every \(StapleFile.interval.seconds) s"
                        + " instead"))
        }
        if let watcher { try send(watcher, as: .watch, over: channel) }
        let keys = try configuration.separateKeys()
        if purpose == .serving, !keys.isEmpty {
            let memory = try MemoryFile.make(BinaryCoding.encode(keys), name: "dtlsd-keys")
            try send([Outcome.keys.rawValue], memory, over: channel)
        }
        try send(.configuration, BinaryCoding.encode(configuration), over: channel)
    }

    /// This can fail, since a user has 128 inotify instances by default (fs.inotify.max_user_instances).
    private static func makeWatcher() -> (FileWatcher?, reason: SystemError?) {
        do throws(SystemError) { return (try FileWatcher(), nil) } catch { return (nil, error) }
    }

    /// Receives a configuration over the channel, reads its OCSP responses again, and sends it back with the new ones.
    static func runForStaples(file: String) throws {
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        wallIn(LoaderNeeds())
        let configuration = try receive(from: channel)
        let watcher = try? FileWatcher()
        let refreshed = StapleRefresh.refresh(
            configuration, file: file, watcher: watcher, now: UnixTime.now())
        if let watcher { try send(watcher, as: .watch, over: channel) }
        try send(.configuration, BinaryCoding.encode(refreshed), over: channel)
    }

    /// Leaves the loader with what it needs to read files.
    private static func wallIn(_ needs: LoaderNeeds) {
        // What openssl.cnf has OpenSSL load cannot be loaded later.
        OpenSSLLibrary.prepare()
        NetworkInterface.prepare()
        AuxiliaryWalls.loader(needs).raise()
        #if DEBUG
            StandIn.actAsTold(in: "loader")
        #endif
    }

    /// Nothing is sent of a watcher without files.
    private static func send(
        _ watcher: FileWatcher, as outcome: Outcome, over channel: borrowing FileDescriptor
    ) throws(SystemError) {
        if watcher.names.isEmpty { return }
        var writer = ByteWriter()
        writer.integer(outcome.rawValue)
        writer.list(watcher.names.sorted()) { $0.string($1) }
        try send(writer.bytes, watcher.descriptor, over: channel)
    }

    fileprivate static func send(
        _ outcome: Outcome, _ bytes: [UInt8], over channel: borrowing FileDescriptor
    ) throws(SystemError) {
        let memory = try MemoryFile.make(bytes, name: "dtlsd-configuration")
        try send([outcome.rawValue], memory, over: channel)
    }

    private static func send(
        _ message: [UInt8], _ descriptor: borrowing FileDescriptor, over channel: borrowing FileDescriptor
    ) throws(SystemError) {
        let raw = descriptor.rawValue
        try message.withUnsafeBufferPointer { bytes throws(SystemError) in
            _ = try UnixChannel.send(UnsafeRawBufferPointer(bytes), descriptor: raw, over: channel)
        }
    }

    private static func sendKeyLog(
        _ path: String, _ context: ReadContext, over channel: borrowing FileDescriptor
    ) throws(ConfigurationProblems) {
        func problem(_ message: String) -> ConfigurationProblems {
            let key = MainSection.schema.name(of: \.keyLogFile)
            return ConfigurationProblems(problems: [context.problem([key], message)])
        }
        let log: FileDescriptor
        do throws(UnreadableFile) { log = try KeyLogFile.open(path) } catch {
            throw problem("\(error.message); expected \(KeyLogFile.expected)")
        }
        do throws(SystemError) { try send([Outcome.keyLog.rawValue], log, over: channel) } catch {
            throw problem("\(error)")
        }
    }

    /// Receives the configuration, which was sent before this process was started.
    private static func receive(from channel: borrowing FileDescriptor) throws -> Configuration {
        let received = try withTemporaryBytes(16, alignment: 8) { bytes throws(SystemError) in
            try UnixChannel.receive(into: bytes, from: channel)
        }
        guard case .message(_, let memory?, _) = consume received else { throw MalformedBytes() }
        return try BinaryCoding.decode(from: MemoryFile.read(memory))
    }
}

/// The acceptor's side: one run of the loader.
final class LoaderHandle: MessageChannelDelegate {
    enum Result {
        /// The configuration, and the watcher of the files that are read again when they change, if there are any.
        case loaded(Configuration, FileWatcher?)
        case refused(ConfigurationProblems)
        /// The loader crashed (its parsers are not part of dtlsd), or could not send its result.
        case failed(String)

        /// Whether a later attempt may succeed without a change of the configuration.
        var isTransient: Bool {
            switch self {
            case .loaded: false
            case .refused(let problems): problems.problems.allSatisfy(\.isTransient)
            case .failed: true
            }
        }

        /// The errors, each as one line; `nil` when there are none.
        var problems: [String]? {
            switch self {
            case .loaded: nil
            case .refused(let problems): problems.problems.map(\.description)
            case .failed(let reason): [reason]
            }
        }
    }

    private let file: String
    private var watcher: FileWatcher?
    /// Watches the files that the configuration names, where it says so.
    private(set) var credentialWatcher: FileWatcher?
    private let pid: pid_t
    /// The file for the secrets of connections, if the configuration has one.
    private var keyLog = FileDescriptor(owning: -1)
    /// The private and pre-shared keys, if the configuration has any.
    private var keys = FileDescriptor(owning: -1)
    /// How the process ended, if the acceptor has reaped it already.
    private var ending: ChildProcess.Ending?
    private var channel: MessageChannel?
    private var completion: ((Result) -> Void)?
    private let loop: EventLoop
    private var deadline: CallbackTimer?

    /// How long a loader may take, in seconds. Reading a file on a network file system may never end.
    private static let timeLimit = 60

    /// Starts a loader. The loop calls `completion` once.
    /// - Parameter configuration: the active configuration, if only its OCSP responses are read again; `nil`: read all.
    init(
        file: String, purpose: Role.Purpose = .serving, refreshing configuration: Configuration? = nil,
        environment: [String: String], loop: EventLoop, completion: @escaping (Result) -> Void
    ) throws(SystemError) {
        let ends = try UnixChannel.pair()
        self.file = file
        self.loop = loop
        if let configuration { try Loader.send(.configuration, BinaryCoding.encode(configuration), over: ends.one) }
        let role = configuration == nil ? Role.loader(file: file, purpose: purpose) : Role.stapleLoader(file: file)
        pid = try ChildProcess.spawn(arguments: role.arguments, environment: environment, channel: ends.other)
        self.completion = completion
        channel = try MessageChannel(ends.one, loop: loop, delegate: self)
        let deadline = CallbackTimer { [weak self] _ in self?.giveUp() }
        self.deadline = deadline
        loop.timers.arm(deadline, at: loop.now + .seconds(Self.timeLimit))
    }

    /// Kills a loader that takes too long. The acceptor reaps it, like all children.
    private func giveUp() {
        // The result may have come, and not have been read yet.
        channel?.readToEnd()
        guard completion != nil else { return }
        if ending == nil { kill(pid, SIGKILL) }
        finish(
            .failed(
                "\(file): the loader process was still reading after \(Self.timeLimit) s, and was killed; expected files that"
                    + " can be read in less time"))
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let attached = descriptor, let first = message.first, let outcome = Loader.Outcome(rawValue: first) else {
            return finish(.failed("\(file): the result of the loader process did not arrive"))
        }
        do {
            switch outcome {
            case .watch, .credentialWatch:
                var reader = ByteReader(UnsafeRawBufferPointer(rebasing: message.dropFirst()))
                let names = try reader.list { (reader) throws(MalformedBytes) in try reader.string() }
                let received = FileWatcher(owning: attached, names: Set(names))
                if outcome == .watch { watcher = received } else { credentialWatcher = received }
            case .keyLog:
                keyLog = attached
            case .keys:
                keys = attached
            case .configuration:
                finish(.loaded(try BinaryCoding.decode(from: MemoryFile.read(attached)), watcher))
            case .problems:
                finish(.refused(try BinaryCoding.decode(from: MemoryFile.read(attached))))
            }
        } catch {
            finish(.failed("\(file): \(error)"))
        }
    }

    func takeKeyLog() -> FileDescriptor { keyLog.take() }

    func takeKeys() -> FileDescriptor { keys.take() }

    /// Records how a child ended; the acceptor reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        if pid == self.pid { self.ending = ending }
    }

    func channelEnded(_ channel: MessageChannel) {
        guard completion != nil else { return }
        // The channel ends when the process does, so this call does not block.
        let ending = (ending ?? ChildProcess.wait(for: pid))?.description ?? "ended"
        finish(.failed("\(file): the configuration cannot be read: the loader process \(ending)"))
    }

    private func finish(_ result: Result) {
        channel?.close()
        if let deadline { loop.timers.disarm(deadline) }
        guard let completion else { return }
        self.completion = nil
        completion(result)
    }
}
