import LinuxSystem

/// What the program's events on one descriptor share: epoll takes each descriptor once.
final class DescriptorWatch: EventHandler {
    private let number: Int32
    /// The descriptor of that number, where it is this object's own; otherwise not open.
    private let copy: FileDescriptor
    private unowned let loop: EventLoop
    private var registration: EventLoop.Registration?
    /// The events whose callback is to be called when the descriptor is ready.
    private var waiting: [Iosched.Event] = []

    /// Watches a descriptor of the program's.
    init(_ number: Int32, _ loop: EventLoop) {
        self.number = number
        self.loop = loop
        copy = FileDescriptor(owning: -1)
    }

    /// Watches the socket of a server or connection, which the loop knows by its own number already: by a second descriptor.
    /// It must be dropped together with the socket, or that stays bound.
    init(copyOf socket: Int32, _ loop: EventLoop) throws(SystemError) {
        var copy = try FileDescriptor.withBorrowed(socket) { socket throws(SystemError) in try socket.duplicate() }
        number = copy.rawValue
        self.copy = copy.take()
        self.loop = loop
    }

    var isUnused: Bool { waiting.isEmpty }

    /// Has the event called back once, when the descriptor is ready for it.
    func wait(_ event: Iosched.Event) throws(DtlsError) {
        guard !waiting.contains(where: { $0 === event }) else { return }
        waiting.append(event)
        do throws(SystemError) {
            try update()
        } catch {
            waiting.removeLast()
            try? update()
            throw DtlsError(error)
        }
    }

    func leave(_ event: Iosched.Event) {
        guard let index = waiting.firstIndex(where: { $0 === event }) else { return }
        waiting.remove(at: index)
        try? update()
    }

    /// Stops watching, before the descriptor is closed.
    func end() {
        waiting = []
        try? update()
    }

    func ready(_ events: EventLoop.Events) {
        let isOver = !events.isDisjoint(with: .hangUp)
        let due = waiting.filter { isOver || events.contains($0.kind.interest) }
        waiting.removeAll { event in due.contains { $0 === event } }
        try? update()
        for event in due { event.schedule() }
    }

    /// Has the loop watch for what the events wait for. Without any it must not watch at all, since it would report errors
    /// again and again.
    private func update() throws(SystemError) {
        let interest = waiting.reduce(into: EventLoop.Events()) { $0.formUnion($1.kind.interest) }
        try FileDescriptor.withBorrowed(number) { descriptor throws(SystemError) in
            if let registration {
                if !waiting.isEmpty, (try? loop.modify(descriptor, interest, registration)) != nil { return }
                // The program may have closed the descriptor, and the number be another file's.
                loop.remove(descriptor, registration)
                self.registration = nil
            }
            if !waiting.isEmpty { registration = try loop.add(descriptor, interest, self) }
        }
    }
}
