import LinuxSystem
import Primitives

/// An event handler that calls a closure.
private final class ReadyClosure: EventHandler {
    private let action: () -> Void

    init(_ action: @escaping () -> Void) { self.action = action }

    func ready(_ events: EventLoop.Events) { action() }
}

extension Iosched {
    /// A descriptor that is watched, and what is called when it is ready (reference: iosched.event).
    public final class Event {
        public enum Kind: Sendable {
            /// There is something to read, or the other end is gone.
            case read
            /// There is room to write.
            case write
        }

        let kind: Kind
        let descriptor: Int32
        /// The server or connection that it waits for.
        private weak var socket: DtlsSocket?
        private(set) var isAdded = false
        unowned let iosched: Iosched
        private var callback: (() -> Bool)?
        private var registration: EventLoop.Registration?
        private var isScheduled = false

        init(_ kind: Kind, _ descriptor: Int32, _ iosched: Iosched, _ callback: @escaping () -> Bool) {
            self.kind = kind
            self.descriptor = descriptor
            self.iosched = iosched
            self.callback = callback
        }

        func attach(to socket: DtlsSocket) {
            isAdded = true
            self.socket = socket
            socket.events.append(self)
            if socket.isReadable { schedule() }
        }

        /// Watches a descriptor that is not one of this library's.
        func watch() throws(DtlsError) {
            registration = try DtlsError.system { () throws(SystemError) in
                try FileDescriptor.withBorrowed(descriptor) { borrowed throws(SystemError) in
                    try iosched.loop.add(
                        borrowed, kind == .read ? .readable : .writable, ReadyClosure { self.becameReady() })
                }
            }
            isAdded = true
        }

        private func unwatch() {
            guard let registration else { return }
            FileDescriptor.withBorrowed(descriptor) { iosched.loop.remove($0, registration) }
            self.registration = nil
        }

        /// Not watched until the callback has been called: the loop may turn often before that, in a synchronous call.
        private func becameReady() {
            unwatch()
            schedule()
        }

        func schedule() {
            guard isAdded, !isScheduled else { return }
            isScheduled = true
            iosched.call { self.run() }
        }

        private func run() {
            isScheduled = false
            guard isAdded, let callback else { return }
            guard callback() else { return iosched.remove(self) }
            guard isAdded else { return }
            if let socket {
                if socket.isReadable { schedule() }
            } else {
                // A descriptor that cannot be watched any more was closed.
                do { try watch() } catch { iosched.remove(self) }
            }
        }

        /// Gives the callback up, and with it what it holds on to.
        func end() {
            unwatch()
            socket?.events.removeAll { $0 === self }
            socket = nil
            isAdded = false
            callback = nil
        }
    }

    /// A callback that comes after some time.
    public final class Timer {
        private let milliseconds: Int
        private let repeats: Bool
        private let iosched: Iosched
        private var callback: (() -> Void)?
        private var timer: CallbackTimer?

        init(_ milliseconds: Int, repeats: Bool, _ iosched: Iosched, _ callback: @escaping () -> Void) {
            self.milliseconds = milliseconds
            self.repeats = repeats
            self.iosched = iosched
            self.callback = callback
            // The timer keeps this object alive until it has fired or is cancelled.
            timer = CallbackTimer { _ in self.fired() }
            arm()
        }

        private func arm() {
            if let timer { iosched.loop.timers.arm(timer, at: Instant.now() + .milliseconds(milliseconds)) }
        }

        private func fired() {
            iosched.call { [self] in
                guard let callback else { return }
                if repeats { arm() } else { cancel() }
                callback()
            }
        }

        /// Stops it. The callback is not called again.
        public func cancel() {
            iosched.checkThread(Timer.self)
            if let timer { iosched.loop.timers.disarm(timer) }
            timer = nil
            callback = nil
        }
    }
}
