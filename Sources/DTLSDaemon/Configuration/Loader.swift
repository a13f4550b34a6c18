import DTLSEngine
import DTLSKit
import Glibc
import LinuxSystem
import Logging

/// The loader's role: it reads the configuration file and all that it names (certificates, keys, host names), sends what
/// came of it over descriptor 3, and ends.
///
/// A process of its own, so that neither a slow name server nor a defect in a parser can stop the acceptor.
enum Loader {
    /// What is sent, before the bytes of the configuration or of the problems, in a memfd.
    enum Outcome: UInt8 {
        case configuration = 1
        case problems = 2
    }

    static func run(file: String) throws {
        let channel = FileDescriptor(owning: ChildProcess.channelDescriptor)
        let outcome: Outcome
        let bytes: [UInt8]
        do throws(ConfigurationProblems) {
            bytes = try ConfigurationReader.read(file: file).encode()
            outcome = .configuration
        } catch {
            bytes = error.encode()
            outcome = .problems
        }
        let memory = try MemoryFile.make(bytes, name: "dtlsd-configuration")
        let message = [outcome.rawValue]
        _ = try message.withUnsafeBytes {
            try UnixChannel.send($0, descriptor: memory.rawValue, over: channel)
        }
    }
}

/// The acceptor's side: one run of the loader.
final class Loading: MessageChannelDelegate {
    enum Result {
        case loaded(Configuration)
        case refused(ConfigurationProblems)
        /// The loader has died (its parsers are not ours), or could not say what it found.
        case failed(String)

        /// What is wrong, a line each; `nil` when nothing is.
        var problems: [String]? {
            switch self {
            case .loaded: nil
            case .refused(let problems): problems.problems.map(\.description)
            case .failed(let reason): [reason]
            }
        }
    }

    private let file: String
    private let pid: pid_t
    /// How the process ended, if somebody else has asked the kernel first.
    private var ending: ChildProcess.Ending?
    private var channel: MessageChannel?
    private var completion: ((Result) -> Void)?
    private let loop: EventLoop
    private var deadline: CallbackTimer?

    /// Seconds that a loader may take: a name server that never answers takes 10 s a name by default, and a file on a
    /// network's disk may take for ever.
    private static let timeLimit = 60

    /// Starts a loader; `completion` is called once, from the loop.
    init(
        file: String, environment: [String: String], loop: EventLoop, completion: @escaping (Result) -> Void
    ) throws(SystemError) {
        let ends = try UnixChannel.pair()
        self.file = file
        self.loop = loop
        pid = try ChildProcess.spawn(
            arguments: Role.loader(file: file).arguments, environment: environment, channel: ends.other)
        self.completion = completion
        channel = try MessageChannel(ends.one, loop: loop, delegate: self)
        let deadline = CallbackTimer { [weak self] _ in self?.giveUp() }
        self.deadline = deadline
        loop.timers.arm(deadline, at: loop.now &+ .milliseconds(Self.timeLimit * 1_000))
    }

    /// The acceptor reaps the process, like all children.
    private func giveUp() {
        guard completion != nil else { return }
        if ending == nil { kill(pid, SIGKILL) }
        finish(
            .failed(
                "\(file): the loader process was still reading after \(Self.timeLimit) s, and was killed; expected a"
                    + " name server that answers, and files that can be read at once"))
    }

    func channel(
        _ channel: MessageChannel, received message: UnsafeRawBufferPointer, descriptor: consuming FileDescriptor?,
        descriptorWasLost: Bool
    ) {
        guard let memory = descriptor, let first = message.first, let outcome = Loader.Outcome(rawValue: first) else {
            return finish(.failed("\(file): what the loader process has found did not arrive"))
        }
        do {
            let bytes = try MemoryFile.read(memory)
            let result: Result = try bytes.withUnsafeBytes {
                switch outcome {
                case .configuration: .loaded(try Configuration(decoding: $0))
                case .problems: .refused(try ConfigurationProblems(decoding: $0))
                }
            }
            finish(result)
        } catch {
            finish(.failed("\(file): \(error)"))
        }
    }

    /// Takes note of a child's end; the acceptor reaps all children.
    func childEnded(_ pid: pid_t, _ ending: ChildProcess.Ending) {
        if pid == self.pid { self.ending = ending }
    }

    func channelEnded(_ channel: MessageChannel) {
        guard completion != nil else { return }
        // The channel ends when the process does, so this does not wait.
        let ending = (ending ?? ChildProcess.wait(for: pid))?.description ?? "ended"
        finish(.failed("\(file): not a configuration that can be read: the loader process \(ending)"))
    }

    private func finish(_ result: Result) {
        channel?.close()
        if let deadline { loop.timers.disarm(deadline) }
        guard let completion else { return }
        self.completion = nil
        completion(result)
    }
}
