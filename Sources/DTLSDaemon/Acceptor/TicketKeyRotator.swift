import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Provides the keys of session tickets: those of the configuration's files, or keys that the daemon generates. It
/// changes generated keys from time to time, and keeps them across restarts if the service manager stores a descriptor.
final class TicketKeyRotator: TimerTarget {
    /// FDNAME= of the memory file. It cannot be mistaken for a listener, since it is not a socket.
    static let storedName = "dtlsd-ticket-keys"

    private var generated = GeneratedTicketKeys()
    /// Holds the generated keys. The service manager has a descriptor of it, too, so it keeps what is written here. The
    /// keys are never in a file, since who has them can decrypt the sessions that clients resume.
    private var memory: FileDescriptor
    private var isStored: Bool
    private var configuration: TicketConfiguration?
    private let loop: EventLoop
    private let onChange: ([TicketKey]) -> Void

    /// - Parameters:
    ///   - memory: the memory file that the service manager has kept; not open when there is none.
    ///   - onChange: is called with all keys whenever they are rotated.
    init(memory: consuming FileDescriptor, loop: EventLoop, onChange: @escaping ([TicketKey]) -> Void) {
        isStored = memory.isOpen
        if memory.isOpen, let bytes = try? MemoryFile.read(memory),
            let kept = try? bytes.withUnsafeBytes({ try GeneratedTicketKeys(decoding: $0) })
        {
            generated = kept
        }
        self.memory = memory
        self.loop = loop
        self.onChange = onChange
        super.init()
    }

    /// The keys for a configuration, the first of which seals. Nothing is activated.
    func keys(for configuration: TicketConfiguration) throws(SystemError) -> [TicketKey] {
        guard configuration.keys.isEmpty else { return configuration.keys }
        let before = generated
        try generated.advance(to: BootTime.now(), configuration) { () throws(SystemError) in try Self.generate() }
        if generated != before { try save() }
        return generated.keys.map(\.key)
    }

    private static func generate() throws(SystemError) -> TicketKey {
        guard let key = TicketKey(try RandomBytes.make(TicketKey.length)) else {
            throw SystemError("getentropy", errno: EIO)
        }
        return key
    }

    private func save() throws(SystemError) {
        if !memory.isOpen { memory = try MemoryFile.makeOpen(name: Self.storedName) }
        try MemoryFile.replace(memory, with: generated.encode())
    }

    /// Rotates the keys of a configuration from now on.
    func activate(_ configuration: TicketConfiguration) {
        self.configuration = configuration
        schedule()
    }

    private func schedule() {
        guard let configuration, configuration.keys.isEmpty else { return }
        let wait = generated.wait(at: BootTime.now(), configuration)
        loop.timers.arm(self, at: loop.now + wait)
    }

    override func timerFired(now: Instant) {
        guard let configuration, configuration.keys.isEmpty else { return }
        let before = generated
        // Without memory the keys stay as they are, and the next try is in a second.
        if let keys = try? keys(for: configuration), generated != before { onChange(keys) }
        schedule()
    }

    /// Gives the memory file to the service manager, unless it has it. To be called again and again, since the manager's
    /// queue may be full.
    func store(with manager: borrowing ServiceManager) {
        guard !isStored, memory.isOpen else { return }
        isStored = manager.store(memory, name: Self.storedName)
    }
}
