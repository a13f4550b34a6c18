import LinuxSystem
import Primitives

extension Iosched {
    /// A descriptor that is watched, and what is called when it is ready (reference: iosched.event).
    public final class Event {
        /// What a descriptor is watched for.
        public enum Kind: Sendable {
            /// There is something to read, or the other end is gone.
            case read
            /// There is room to write.
            case write

            var interest: EventLoop.Events {
                switch self {
                case .read: .readable
                case .write: .writable
                }
            }
        }

        let kind: Kind
        let descriptor: Int32
        /// The server or connection that it waits for.
        private weak var socket: DtlsSocket?
        private var isOfSocket = false
        private(set) var isAdded = false
        unowned let iosched: Iosched
        private var callback: (() -> Bool)?
        private var watch: DescriptorWatch?
        private(set) var isScheduled = false

        init(_ kind: Kind, _ descriptor: Int32, _ iosched: Iosched, _ callback: @escaping () -> Bool) {
            self.kind = kind
            self.descriptor = descriptor
            self.iosched = iosched
            self.callback = callback
        }

        /// Waits for a server or connection of this library's: there is something to read when that says so, which reads
        /// its socket itself.
        func attach(to socket: DtlsSocket) throws(DtlsError) {
            isAdded = true
            isOfSocket = true
            self.socket = socket
            socket.events.append(self)
            socket.beginUse()
            try waitAgain()
        }

        /// Watches a descriptor that is not one of this library's.
        func attach() throws(DtlsError) {
            try wait(iosched.watch(of: descriptor))
            isAdded = true
        }

        private func wait(_ watch: DescriptorWatch) throws(DtlsError) {
            try watch.wait(self)
            self.watch = watch
        }

        /// Waits until the descriptor is ready once more. Not watched until the callback has been called: the loop may turn
        /// often before that, in a synchronous call.
        private func waitAgain() throws(DtlsError) {
            guard isOfSocket else { return try wait(iosched.watch(of: descriptor)) }
            guard let socket else { throw .notOpen }
            if kind == .write {
                try wait(socket.roomWatch())
            } else if socket.isReadable {
                schedule()
            }
        }

        /// The server or connection has another socket: there is room when that one has some.
        func socketChanged() {
            guard isAdded, !isScheduled, kind == .write else { return }
            do { try waitAgain() } catch { iosched.remove(self) }
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
            // What cannot be watched any more was closed.
            do { try waitAgain() } catch { iosched.remove(self) }
        }

        /// Waits for nothing any more, and may be added again.
        func detach() {
            watch?.leave(self)
            watch = nil
            socket?.events.removeAll { $0 === self }
            socket = nil
            isOfSocket = false
            isAdded = false
        }

        /// Gives the callback up, and with it what it holds on to.
        func end() {
            detach()
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
