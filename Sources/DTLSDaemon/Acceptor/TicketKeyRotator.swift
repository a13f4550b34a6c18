import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Says what session tickets are sealed with: the keys of the configuration's files, or keys of the daemon's own, which
/// it draws from time to time and keeps across restarts where the service manager stores a descriptor for it.
final class TicketKeyRotator {
    /// FDNAME= of the memory file. No listener can be meant by it: it is no socket.
    static let storedName = "dtlsd-ticket-keys"

    private var drawn = GeneratedTicketKeys()
    /// Holds `drawn`; the service manager has a descriptor of it too, so what is written here is what it keeps. It is
    /// never in a file: whoever has these keys can read what clients send in sessions that they resume.
    private var memory: FileDescriptor
    private var isStored: Bool
    private var configuration: TicketConfiguration?
    private let loop: EventLoop
    private let changed: ([TicketKey]) -> Void
    private var timer: CallbackTimer?

    /// - Parameters:
    ///   - memory: what the service manager has kept; not open where there is nothing.
    ///   - changed: is given the keys whenever time changes them.
    init(memory: consuming FileDescriptor, loop: EventLoop, changed: @escaping ([TicketKey]) -> Void) {
        isStored = memory.isOpen
        if memory.isOpen, let bytes = try? MemoryFile.read(memory),
            let kept = try? bytes.withUnsafeBytes({ try GeneratedTicketKeys(decoding: $0) })
        {
            drawn = kept
        }
        self.memory = memory
        self.loop = loop
        self.changed = changed
        timer = CallbackTimer { [weak self] _ in self?.advance() }
    }

    /// The keys that a configuration asks for, the first of which seals. Nothing is in force yet.
    func keys(for configuration: TicketConfiguration) throws(SystemError) -> [TicketKey] {
        guard configuration.keys.isEmpty else { return configuration.keys }
        let before = drawn
        try drawn.advance(to: BootTime.now(), configuration) { () throws(SystemError) in try Self.draw() }
        if drawn != before { try remember() }
        return drawn.keys.map(\.key)
    }

    private static func draw() throws(SystemError) -> TicketKey {
        guard let key = TicketKey(try RandomBytes.make(TicketKey.length)) else {
            throw SystemError("getentropy", errno: EIO)
        }
        return key
    }

    private func remember() throws(SystemError) {
        if !memory.isOpen { memory = try MemoryFile.makeOpen(name: Self.storedName) }
        try MemoryFile.replace(memory, with: drawn.encode())
    }

    /// This configuration is in force now.
    func use(_ configuration: TicketConfiguration) {
        self.configuration = configuration
        schedule()
    }

    private func schedule() {
        guard let timer, let configuration, configuration.keys.isEmpty else { return }
        let wait = drawn.wait(at: BootTime.now(), configuration)
        loop.timers.arm(timer, at: loop.now + wait)
    }

    private func advance() {
        guard let configuration, configuration.keys.isEmpty else { return }
        let before = drawn
        // Out of memory: the keys stay as they are, and the next try is in a second.
        if let keys = try? keys(for: configuration), drawn != before { changed(keys) }
        schedule()
    }

    /// Gives the memory file to the service manager, once; to be called again while its queue is full.
    func store(with manager: borrowing ServiceManager) {
        guard !isStored, memory.isOpen else { return }
        isStored = manager.store(memory, name: Self.storedName)
    }
}
