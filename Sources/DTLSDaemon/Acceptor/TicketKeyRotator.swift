import DTLSEngine
import Glibc
import LinuxSystem
import Primitives

/// Provides the keys of session tickets: those of the configuration's files, or keys that the daemon generates. It
/// changes generated keys from time to time, and keeps them across restarts if the service manager stores a descriptor.
final class TicketKeyRotator: TimerTarget {
    private var generated = GeneratedTicketKeys()
    /// Holds the generated keys. The service manager has a descriptor of it, too, so it keeps what is written here. The
    /// keys are never in a file, since who has them can decrypt the sessions that clients resume.
    private(set) var memory: FileDescriptor
    private var configuration: TicketConfiguration?
    private let loop: EventLoop
    private let onChange: ([TicketKey]) -> Void

    /// - Parameters:
    ///   - memory: the memory file that the service manager has kept; not open when there is none.
    ///   - onChange: is called with all keys whenever they are rotated.
    init(memory: consuming FileDescriptor, loop: EventLoop, onChange: @escaping ([TicketKey]) -> Void) {
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
        if !memory.isOpen { memory = try MemoryFile.makeOpen(name: StoredItem.ticketKeys.name) }
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

    /// Leaves the keys as they are from now on, since another main process is about to read them from the memory file.
    func pause() {
        configuration = nil
        loop.timers.disarm(self)
    }

    /// Reads the memory file again, which the main process before this one may have written to since.
    /// - Returns: whether the keys have changed.
    func readAgain() -> Bool {
        guard memory.isOpen, let bytes = try? MemoryFile.read(memory),
            let kept = try? bytes.withUnsafeBytes({ try GeneratedTicketKeys(decoding: $0) }), kept != generated
        else { return false }
        generated = kept
        return true
    }
}
