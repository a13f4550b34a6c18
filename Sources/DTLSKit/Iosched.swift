import DTLSEngine
import DTLSTransport
import Glibc
import LinuxSystem
import Primitives
import Synchronization

/// The calling thread's loop (reference: iosched).
///
/// Everything asynchronous of ``Dtls`` and ``DtlsTask`` happens inside its ``Iosched/poll(timeout:)`` or
/// ``Iosched/forever()``. The synchronous calls need no loop of the program's: they run it themselves until they are
/// done, without calling back anybody.
@available(
    *, noasync, message: "a loop belongs to one thread; asynchronous code uses AsyncDtlsServer and AsyncDtlsConnection"
)
public var iosched: Iosched { get throws(DtlsError) { try Iosched.current() } }

/// A thread's event loop: descriptors, timers, and the callbacks of that thread's servers, connections and tasks.
///
/// Callbacks are called one after the other from ``poll(timeout:)`` and from nowhere else, so each may close its own
/// connection, its server, or anything else.
public final class Iosched {
    private let thread = ThreadIdentity.current
    /// Whether the thread has ended, and with it all that was open on this loop.
    private let hasEnded = Atomic(false)
    let loop: EventLoop
    let datapath: Datapath
    let listenerBuffers = ListenerBuffers()
    private var callbacks: [() -> Void] = []
    /// What handshakes wait for.
    private var questions: [() -> Void] = []
    private var nextCallback = 0
    private var isStopped = false
    /// Whether this is the loop of ``DtlsLoop``.
    var isOfActor = false
    /// The servers and connections of this thread, by their descriptor.
    private var sockets: [Int32: WeakSocket] = [:]
    /// What watches the program's own descriptors, by these.
    private var watches: [Int32: DescriptorWatch] = [:]
    /// Objects that must live until their callback has been called.
    private var kept: [ObjectIdentifier: AnyObject] = [:]
    /// The identities of named servers: this thread's own, or those that the parent of this task has sent.
    var identities: [String: ServerIdentity] = [:]
    /// The tasks that this thread has started and that have not ended.
    var tasks: [DtlsTask] = []
    /// In a task's process: the way to its parent.
    var parent: TaskParent?
    private var lastNumber: UInt64 = 0

    private struct WeakSocket { weak var socket: DtlsSocket? }

    private init() throws(DtlsError) {
        loop = try DtlsError.system { () throws(SystemError) in try EventLoop() }
        do { datapath = try Datapath(loop: loop) } catch { throw DtlsError(error) }
    }

    // MARK: The loop of a thread

    /// The thread-specific value in which a thread keeps its loop. The loop ends with the thread, and closes all that
    /// is still open on it.
    private static let threadKey: pthread_key_t = {
        var key = pthread_key_t()
        pthread_key_create(&key) { pointer in
            guard let pointer else { return }
            let iosched = Unmanaged<Iosched>.fromOpaque(pointer)
            iosched._withUnsafeGuaranteedRef {
                $0.closeAll()
                $0.hasEnded.store(true, ordering: .releasing)
            }
            iosched.release()
        }
        return key
    }()

    /// The calling thread's loop; made at its first use.
    static func current() throws(DtlsError) -> Iosched {
        if let pointer = pthread_getspecific(threadKey) {
            return Unmanaged<Iosched>.fromOpaque(pointer).takeUnretainedValue()
        }
        let iosched = try Iosched()
        pthread_setspecific(threadKey, Unmanaged.passRetained(iosched).toOpaque())
        return iosched
    }

    /// Closes what is open on this loop: the thread ends, or the process.
    func closeAll() {
        for entry in sockets.values { entry.socket?.close() }
        sockets = [:]
        kept = [:]
        callbacks = []
        questions = []
        for task in tasks { task.abandon() }
        tasks = []
        loop.dropDeferredWork()
    }

    // MARK: The thread

    /// Ends the process where a call that belongs to this loop's thread is made on another one: the loop, its sockets
    /// and OpenSSL's objects have no locks, so two threads would destroy each other's memory, and nobody would find the
    /// place. Every public method begins with this.
    /// - Parameters:
    ///   - type: that of the object that was called.
    ///   - call: its method.
    @inline(__always) func checkThread(_ type: AnyObject.Type, _ call: StaticString = #function) {
        if !thread.isCurrent { refuse(type, call) }
    }

    @inline(never) private func refuse(_ type: AnyObject.Type, _ call: StaticString) {
        // Nothing is open any more, so a look at what is left of a socket does no harm.
        if hasEnded.load(ordering: .acquiring), type != Iosched.self { return }
        let here = ThreadIdentity.current.number
        let deed =
            "\(call)" == "deinit"
            ? "the last reference to an open \(type) was dropped" : "\(type).\(call) was called"
        // This is an error of the program, and memory would be corrupted if it went on. fatalError prints its message in
        // release builds too, where precondition prints none.
        fatalError(
            "\(deed) on thread \(here), but it belongs to thread \(thread.number), which has made it. Do it on that"
                + " thread, in a callback of its iosched for instance, or use AsyncDtlsServer and AsyncDtlsConnection,"
                + " which every thread may use.")
    }

    // MARK: Running

    /// Waits for the first event, and calls the callbacks that are due.
    /// - Parameter timeout: milliseconds; `nil`: wait for ever, 0: do not wait.
    public func poll(timeout: Int? = nil) throws(DtlsError) {
        checkThread(Iosched.self)
        try checkTimeout(timeout)
        try checkMayWait()
        try turnAndCall(timeout: timeout)
    }

    func turnAndCall(timeout: Int?) throws(DtlsError) {
        try turn(timeout: hasCallbacks ? 0 : timeout)
        runCallbacks()
    }

    /// Throws where a call is about to wait on the thread of ``DtlsLoop``: all asynchronous code would stand still.
    func checkMayWait() throws(DtlsError) {
        guard isOfActor else { return }
        throw .invalid(
            "this call would wait on DtlsLoop, and all asynchronous servers and connections with it: use AsyncDtlsServer"
                + " and AsyncDtlsConnection there, or a thread of the program's own")
    }

    /// The descriptor of this loop, for a program whose thread runs another one: where it is readable, ``processPending()``
    /// has something to do. It stays the same while the thread runs. Nothing may be read from it, and it must not be closed.
    /// (Not in the reference, like the next two.)
    public var pollDescriptor: Int32 {
        checkThread(Iosched.self)
        return loop.descriptor
    }

    /// In how many milliseconds ``processPending()`` is to be called although ``pollDescriptor`` is not readable; `nil`: not
    /// before it is. It may change with every call of this library's.
    public var millisecondsToDeadline: Int? {
        checkThread(Iosched.self)
        if hasCallbacks { return 0 }
        // Rounded up: a loop that is too early finds nothing to do, and comes again at once.
        return loop.timeUntilDue.map { ($0 + .nanoseconds(999_999)).milliseconds }
    }

    /// Does what is due, without waiting: datagrams, deadlines and callbacks. See <doc:OtherLoops>.
    public func processPending() throws(DtlsError) {
        checkThread(Iosched.self)
        try poll(timeout: 0)
    }

    /// Polls until ``stop()``, or not at all if ``stop()`` has been called since ``forever()`` last returned.
    public func forever() throws(DtlsError) {
        checkThread(Iosched.self)
        defer { isStopped = false }
        while !isStopped { try poll() }
    }

    /// Ends ``forever()`` once the present callback has returned. Before ``forever()``, it makes the next one return at
    /// once.
    public func stop() {
        checkThread(Iosched.self)
        isStopped = true
        // A loop that waits does not look.
        call {}
    }

    /// One turn of the loop, without calling anybody back.
    func turn(timeout: Int?) throws(DtlsError) {
        try DtlsError.system { () throws(SystemError) in try loop.poll(timeout: timeout.map { .milliseconds($0) }) }
    }

    /// Runs the loop until `isDone`, or until the timeout has passed: how everything synchronous waits.
    /// - Parameter answersQuestions: whether the program is asked what handshakes wait for; see ``ask(_:)``.
    /// - Returns: whether it is done.
    func run(
        timeout: Int?, answeringQuestions answersQuestions: Bool = false, until isDone: () -> Bool
    ) throws(DtlsError) -> Bool {
        if isDone() { return true }
        if timeout != 0 { try checkMayWait() }
        let deadline = timeout.map { Instant.now() + .milliseconds($0) }
        while true {
            var left: Int?
            if let deadline {
                let now = Instant.now()
                left = deadline > now ? (deadline - now + .nanoseconds(999_999)).milliseconds : 0
            }
            try turn(timeout: answersQuestions && !questions.isEmpty ? 0 : left)
            if answersQuestions { askQuestions() }
            if isDone() { return true }
            if left == 0 { return false }
        }
    }

    // MARK: Callbacks

    /// Has `work` done by the next `poll`.
    func call(_ work: @escaping () -> Void) { callbacks.append(work) }

    /// Has the program asked what a handshake waits for: by the next `poll`, or by a call that waits for handshakes, which
    /// might wait for ever otherwise.
    func ask(_ question: @escaping () -> Void) {
        questions.append(question)
        call { [weak self] in self?.askQuestions() }
    }

    private func askQuestions() {
        while !questions.isEmpty { questions.removeFirst()() }
    }

    private var hasCallbacks: Bool { nextCallback < callbacks.count }

    /// Those that come meanwhile have their turn in the next poll. One that polls itself runs the rest before it
    /// returns.
    private func runCallbacks() {
        var left = callbacks.count - nextCallback
        while left > 0, hasCallbacks {
            let work = callbacks[nextCallback]
            nextCallback += 1
            left -= 1
            work()
        }
        if !hasCallbacks {
            callbacks.removeAll(keepingCapacity: true)
            nextCallback = 0
        }
    }

    func keep(_ object: AnyObject) { kept[ObjectIdentifier(object)] = object }
    func letGo(_ object: AnyObject) { kept[ObjectIdentifier(object)] = nil }

    /// A number that no other connection of this process' servers has.
    func makeNumber() -> UInt64 {
        lastNumber &+= 1
        return lastNumber
    }

    // MARK: Sockets

    func register(_ socket: DtlsSocket, _ descriptor: Int32) { sockets[descriptor] = WeakSocket(socket: socket) }

    func unregister(_ socket: DtlsSocket, _ descriptor: Int32) {
        // One that is being deinitialised is not found through a weak reference any more.
        guard let entry = sockets[descriptor], entry.socket == nil || entry.socket === socket else { return }
        sockets[descriptor] = nil
    }

    /// A task has ended, and the connections that it had with it.
    func forgetConnections(of task: DtlsTask) {
        for case let server as DtlsServer in sockets.values.map(\.socket) { server.forgetConnections(of: task) }
    }

    func server(named name: String) -> DtlsServer? {
        for case let server as DtlsServer in sockets.values.map(\.socket) where server.identity.option.name == name {
            return server
        }
        return nil
    }

    func socket(_ descriptor: Int32) -> DtlsSocket? { sockets[descriptor]?.socket }

    /// A server of this thread, other than `server`, that would share its clients with one that listens there.
    func server(beside place: ListeningPlace, otherThan server: DtlsServer? = nil) -> DtlsServer? {
        for case let other as DtlsServer in sockets.values.map(\.socket)
        where other !== server && other.place?.overlaps(place) == true {
            return other
        }
        return nil
    }

    /// Whether this thread has an open connection that a server of its own has accepted there.
    func hasClients(at place: ListeningPlace) -> Bool {
        sockets.values.contains { ($0.socket as? DtlsConnection)?.wasAccepted(at: place) == true }
    }

    // MARK: Events

    /// An event to be added: `callback` is called as often as the descriptor is ready.
    /// - Parameters:
    ///   - kind: what is waited for.
    ///   - descriptor: any descriptor, or the ``DtlsSocket/sockFd`` of a server or connection of this thread.
    ///   - callback: returns whether it wants to be called again; with `false` the event is removed.
    public func event(_ kind: Event.Kind, _ descriptor: Int32, _ callback: @escaping () -> Bool) -> Event {
        checkThread(Iosched.self)
        return Event(kind, descriptor, self, callback)
    }

    /// Begins to watch. Several events may watch one descriptor. Throws where the descriptor cannot be watched.
    ///
    /// A connection whose handshake has not begun begins it.
    public func add(_ event: Event) throws(DtlsError) {
        checkThread(Iosched.self)
        event.iosched.checkThread(Event.self, "add")
        guard !event.isAdded else { return }
        do throws(DtlsError) {
            if let socket = socket(event.descriptor) {
                try event.attach(to: socket)
            } else {
                try event.attach()
            }
        } catch {
            event.detach()
            throw error
        }
    }

    /// What watches a descriptor of the program's.
    func watch(of descriptor: Int32) -> DescriptorWatch {
        if let watch = watches[descriptor] { return watch }
        watches = watches.filter { !$0.value.isUnused }
        let watch = DescriptorWatch(descriptor, loop)
        watches[descriptor] = watch
        return watch
    }

    /// Ends watching. The callback is not called again.
    public func remove(_ event: Event) {
        checkThread(Iosched.self)
        event.iosched.checkThread(Event.self, "remove")
        event.end()
    }

    /// Calls `callback` after some time.
    /// - Parameters:
    ///   - milliseconds: 0 or more.
    ///   - repeats: whether it comes again after as many milliseconds.
    ///   - callback: called by the poll after that time.
    /// - Returns: the timer; `cancel()` stops it. It need not be kept.
    @discardableResult
    public func timer(
        after milliseconds: Int, repeats: Bool = false, _ callback: @escaping () -> Void
    ) throws(DtlsError) -> Timer {
        checkThread(Iosched.self)
        try checkTimeout(milliseconds)
        if repeats, milliseconds == 0 { throw .invalid("a timer that repeats needs 1 ms or more") }
        return Timer(milliseconds, repeats: repeats, self, callback)
    }
}
