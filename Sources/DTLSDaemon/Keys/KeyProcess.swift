import CLinux
import DTLSEngine
import Glibc
import LinuxSystem
import Primitives
import Synchronization

/// The key process' role: it has the private and pre-shared keys of all services and clients, which no other process has once
/// they are read. It signs for workers what is signed in handshakes (``SignedContent``), and tells them the pre-shared key of
/// one identity at a time. It talks to the main process over
/// descriptor 3 and to each worker over a channel of that one's own, and to no network.
///
/// There are two threads for each processor, and each worker is given to the one that has the fewest: a signature with RSA
/// takes half a millisecond, in which no other worker is to wait. A thread runs on the processor of the worker that it has
/// answered last, which sleeps meanwhile (see ``KeyChannel``).
final class KeyProcess: Sendable {
    /// What the threads wait at.
    private let seats: [PollSet]
    private let main: FileDescriptor
    private let allowances: KeyAllowances
    private let state: Mutex<State>

    /// The keys of a configuration.
    private struct Keys {
        var privateKeys: [KeyID: VaultKey] = [:]
        var tables: [KeyID: PresharedKeyVault] = [:]
    }

    private struct State {
        /// The keys of the configurations that workers may be given.
        var sets: [UInt32: Keys] = [:]
        var workers: [UInt32: WorkerChannel] = [:]
        /// How many workers each thread has.
        var workersOfSeats: [Int]

        func key(_ id: KeyID, for uses: KeyUses) -> VaultKey? {
            sets.values.lazy.compactMap { $0.privateKeys[id] }.first { $0.uses.isSuperset(of: uses) }
        }

        func table(_ id: KeyID) -> PresharedKeyVault? { sets.values.lazy.compactMap { $0.tables[id] }.first }
    }

    /// What a worker asks over. It is used by one thread.
    private final class WorkerChannel: @unchecked Sendable {
        let number: UInt32
        let place: Int
        /// The thread that it was given to.
        let seat: Int
        let descriptor: FileDescriptor
        var user = KeyUser()
        /// Where the worker says that it runs.
        var processor: UInt16 = 0
        var allowance: SignatureAllowance
        /// When the main process may be told again that the worker asks too often.
        var nextComplaint = Instant.distantPast

        init(
            _ number: UInt32, place: Int, seat: Int, _ descriptor: consuming FileDescriptor,
            _ allowance: SignatureAllowance
        ) {
            (self.number, self.place, self.seat, self.allowance) = (number, place, seat, allowance)
            self.descriptor = descriptor
        }
    }

    private static let threadsOfProcessor = 2
    private static let maximumThreads = 256
    /// How often the main process is told of a worker that asks too often.
    private static let complaintInterval = Duration.seconds(10)

    /// Runs the role until the main process ends.
    static func run() throws {
        for signal in [SIGINT, SIGTERM, SIGHUP] { Glibc.signal(signal, SIG_IGN) }
        let main = FileDescriptor(owning: ChildProcess.channelDescriptor)
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 * 1_024, alignment: 16)
        guard let (message, descriptor) = try receive(from: main, buffer), case .begin(let account) = message,
            let descriptor
        else { throw MalformedBytes() }
        if let account, UserAccount.current == 0 { try account.become(keepsLowPorts: false) }
        Privileges.hideMemory()
        _ = OpenFileLimit.raise()
        // What OpenSSL reads and opens once, it cannot later.
        VaultKey.prepareOpenSSL()
        var seats: [PollSet] = []
        for _ in 0..<min(threadsOfProcessor * ProcessorShare.usable, maximumThreads) { seats.append(try PollSet()) }
        let process = KeyProcess(main, seats, try KeyAllowances(descriptor.take()))
        let failures = try process.wallIn()
        if !failures.isEmpty { process.send(.wallsMissing(failures.map(\.description))) }
        try process.serveMain(buffer)
    }

    private init(_ main: consuming FileDescriptor, _ seats: [PollSet], _ allowances: KeyAllowances) {
        self.main = main
        (self.seats, self.allowances) = (seats, allowances)
        state = Mutex(State(workersOfSeats: [Int](repeating: 0, count: seats.count)))
    }

    /// Raises the walls that a worker has which needs nothing, and starts the threads behind them.
    /// - Returns: what was left out, and why.
    private func wallIn() throws(SystemError) -> [SystemError] {
        let walls = WorkerWalls(needs: WorkerNeeds())
        var failures = walls.raiseForThread()
        var filter = walls.filter
        // Where it runs itself, and no other process.
        filter.add(.allow, CL_SYS_sched_setaffinity, where: [[.bits(of: 0, are: 0)]])
        let list = filter
        // They inherit all but the list of system calls, which lets nobody start a thread.
        for seat in seats.indices {
            try SystemThread.start { [self] in
                // Where this fails, it does in the first thread, too, which tells.
                try? list.install()
                serveWorkers(of: seat)
            }
        }
        Privileges.limitResources()
        do throws(SystemError) { try list.install() } catch { failures.append(error) }
        return failures
    }

    // MARK: The main process

    private static func receive(
        from channel: borrowing FileDescriptor, _ buffer: UnsafeMutableRawBufferPointer
    ) throws -> (MessageToKeyProcess, FileDescriptorBox?)? {
        while true {
            _ = try UnixChannel.waitForMessage(on: channel)
            let received = try UnixChannel.receive(into: buffer, from: channel)
            switch consume received {
            case .nothing: continue
            case .end: return nil
            case .message(let count, let descriptor, _):
                let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
                let message: MessageToKeyProcess = try BinaryCoding.decode(from: bytes)
                guard let descriptor else { return (message, nil) }
                return (message, FileDescriptorBox(descriptor))
            }
        }
    }

    private func serveMain(_ buffer: UnsafeMutableRawBufferPointer) throws {
        while let (message, descriptor) = try Self.receive(from: main, buffer) {
            switch message {
            case .begin: break
            case .ping: send(.pong)
            case .keys(let set): addKeys(set, descriptor)
            case .forget(let set):
                // Keys are freed outside of the lock.
                _ = state.withLock { $0.sets.removeValue(forKey: set) }
            case .worker(let number, let place): if let descriptor { addWorker(number, Int(place), descriptor) }
            }
        }
        // Threads may be at work.
        _exit(0)
    }

    private func addKeys(_ set: UInt32, _ file: FileDescriptorBox?) {
        guard let file else { return send(.unusable(set: set, reason: "they did not arrive")) }
        do {
            let bytes = try MemoryFile.read(file.descriptor)
            let material: KeyMaterial = try BinaryCoding.decode(from: bytes)
            var keys = Keys()
            for one in material.privateKeys {
                let key = try VaultKey(one)
                keys.privateKeys[key.id] = key
            }
            for one in material.presharedKeys {
                let table = PresharedKeyVault(one)
                keys.tables[table.id] = table
            }
            let all = keys
            state.withLock { $0.sets[set] = all }
            send(.ready(set: set))
        } catch {
            send(.unusable(set: set, reason: "\(error)"))
        }
    }

    private func addWorker(_ number: UInt32, _ place: Int, _ descriptor: FileDescriptorBox) {
        let allowance = SignatureAllowance(allowances[place], now: Instant.now())
        let own = FileDescriptorBox(descriptor.take())
        let worker = state.withLock { state in
            let counts = state.workersOfSeats
            let seat = counts.indices.min { counts[$0] < counts[$1] } ?? 0
            let worker = WorkerChannel(number, place: place, seat: seat, own.take(), allowance)
            state.workers[number] = worker
            state.workersOfSeats[seat] += 1
            return worker
        }
        do throws(SystemError) {
            try seats[worker.seat].add(worker.descriptor, as: UInt64(number))
        } catch {
            remove(number)
        }
    }

    private func remove(_ number: UInt32) {
        // The channel is closed outside of the lock.
        _ = state.withLock { state in
            let worker = state.workers.removeValue(forKey: number)
            if let worker { state.workersOfSeats[worker.seat] -= 1 }
            return worker
        }
    }

    private func send(_ message: MessageFromKeyProcess) {
        // The main process reads its channel at once. What it does not, it does not need.
        _ = try? BinaryCoding.encode(message).withUnsafeBytes { try UnixChannel.send($0, over: main) }
    }

    // MARK: Workers

    private func serveWorkers(of seat: Int) {
        let buffer = UnsafeMutableRawBufferPointer.allocate(
            byteCount: UnixChannel.maximumMessageSize, alignment: 16)
        var processor: UInt16?
        while let event = try? seats[seat].wait() {
            guard let number = UInt32(exactly: event), let worker = state.withLock({ $0.workers[number] }) else {
                continue
            }
            guard serveOne(worker, buffer) else {
                remove(number)
                continue
            }
            if processor != worker.processor {
                processor = worker.processor
                // Where this fails, that is no processor of this process', and the thread stays where it is.
                try? SystemThread.stay(onProcessor: worker.processor)
            }
        }
        _exit(ExitStatus.system)
    }

    /// Reads and answers one request.
    /// - Returns: false when the worker, or its channel, is to be given up.
    private func serveOne(_ worker: WorkerChannel, _ buffer: UnsafeMutableRawBufferPointer) -> Bool {
        let count: Int
        do throws(SystemError) {
            let received = try UnixChannel.receive(into: buffer, from: worker.descriptor)
            switch consume received {
            case .nothing: return true
            case .end: return false
            case .message(let length, _, _): count = length
            }
        } catch {
            if error.errno == EMSGSIZE { send(.violation(worker: worker.number, reason: "a signature of too much")) }
            return false
        }
        let message = UnsafeRawBufferPointer(rebasing: buffer[..<count])
        guard count >= MemoryLayout<UInt16>.size else {
            send(.violation(worker: worker.number, reason: "a request that is malformed, of \(count) bytes"))
            return false
        }
        worker.processor = message.loadUnaligned(as: UInt16.self)
        let outcome = worker.user.receive(
            UnsafeRawBufferPointer(rebasing: message.dropFirst(MemoryLayout<UInt16>.size)),
            find: { id, uses in state.withLock { $0.key(id, for: uses) } },
            findTable: { id in state.withLock { $0.table(id) } },
            mayUse: { worker.allowance.use(allowances[worker.place], now: Instant.now()) })
        switch outcome {
        case .nothing: return true
        case .violation(let reason):
            send(.violation(worker: worker.number, reason: reason))
            return false
        case .answer(let answer):
            if answer == .tooMany { complain(of: worker) }
            let isSent = try? answer.bytes.withUnsafeBytes { try UnixChannel.send($0, over: worker.descriptor) }
            // A worker reads each answer before it asks again.
            return isSent == true
        }
    }

    private func complain(of worker: WorkerChannel) {
        let now = Instant.now()
        guard now >= worker.nextComplaint else { return }
        worker.nextComplaint = now + Self.complaintInterval
        send(.tooMany(worker: worker.number))
    }
}

/// A descriptor in a tuple, which cannot hold what cannot be copied.
private final class FileDescriptorBox {
    private(set) var descriptor: FileDescriptor
    init(_ descriptor: consuming FileDescriptor) { self.descriptor = descriptor }
    func take() -> FileDescriptor { descriptor.take() }
}
