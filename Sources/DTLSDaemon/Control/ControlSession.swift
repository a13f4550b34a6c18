import ControlProtocol
import Primitives

/// One client of the control socket, without I/O: what it has sent, and what it is to be sent.
///
/// It is worked on one request at a time. The next one is read when the client has read the answer to the last, so there
/// are at most one request, what came with it in one read, and one answer in memory, whatever a client does.
struct ControlSession {
    enum Action: Equatable {
        /// Carry a request out. Its answer comes by ``answered(_:now:)``.
        case perform(ControlRequest)
        /// Close the socket. Nothing follows.
        case close
    }

    /// What the socket is to be watched for.
    enum Interest: Equatable {
        case input
        case output
        /// Only for the client's going away.
        case nothing
    }

    private enum State: Equatable {
        /// The next request has not come as a whole.
        case reading
        /// A request is being carried out, which may take as long as it does.
        case working
        /// The answer has not been written as a whole.
        case writing(thenCloses: Bool)
        case closed
    }

    /// How long a request may take to come in, and an answer to be read.
    static let patience = Duration.seconds(30)

    private var state = State.reading
    private var framing = LineFraming(maximum: ControlProtocol.maximumRequestBytes)
    private var hasEnded = false
    /// What is to be written.
    private(set) var unsent: ArraySlice<UInt8> = []
    /// When the client has taken too long; it is far away while a request is carried out.
    private(set) var deadline: Instant

    init(now: Instant) { deadline = now + Self.patience }

    var interest: Interest {
        switch state {
        case .reading: .input
        case .writing: .output
        case .working, .closed: .nothing
        }
    }

    /// The client gets this error, and is gone then, whatever it wants.
    mutating func refuse(_ error: ControlError) -> [Action] {
        framing = LineFraming(maximum: 0)
        return write(Self.line(error, id: nil), thenCloses: true)
    }

    /// Takes what was read. It is called only with ``Interest/input``.
    mutating func received(_ bytes: UnsafeRawBufferPointer, now: Instant) -> [Action] {
        guard state == .reading else { return [] }
        framing.append(bytes)
        return next(now: now)
    }

    /// The client sends nothing more. What it has sent is still answered.
    mutating func inputEnded(now: Instant) -> [Action] {
        hasEnded = true
        guard state == .reading else { return [] }
        return next(now: now)
    }

    /// Takes the answer to the request that is being carried out: a line without its line feed.
    mutating func answered(_ line: [UInt8], now: Instant) -> [Action] {
        guard state == .working else { return [] }
        deadline = now + Self.patience
        return write(line, thenCloses: false)
    }

    /// Notes how much of ``unsent`` was written.
    mutating func written(_ count: Int, now: Instant) -> [Action] {
        guard case .writing(let closes) = state else { return [] }
        unsent = unsent.dropFirst(count)
        guard unsent.isEmpty else { return [] }
        // The memory of a long answer is given back.
        unsent = []
        if closes { return close() }
        state = .reading
        deadline = now + Self.patience
        return next(now: now)
    }

    /// The client has gone, or its socket is of no use any more.
    mutating func failed() -> [Action] { close() }

    mutating func advance(to now: Instant) -> [Action] { now >= deadline ? close() : [] }

    private mutating func next(now: Instant) -> [Action] {
        switch framing.next() {
        case .line(let line) where line.isEmpty: return next(now: now)
        case .line(let line): return begin(line)
        case .tooLong:
            return write(
                Self.line(
                    ControlError(
                        .badRequest,
                        "The request is longer than \(ControlProtocol.maximumRequestBytes) bytes."), id: nil),
                thenCloses: true)
        case nil: return hasEnded ? close() : []
        }
    }

    private mutating func begin(_ line: [UInt8]) -> [Action] {
        switch ControlProtocol.request(from: line) {
        case .success(let request):
            state = .working
            deadline = .distantFuture
            return [.perform(request)]
        case .failure(let refused): return write(Self.line(refused.error, id: refused.id), thenCloses: false)
        }
    }

    private mutating func write(_ line: [UInt8], thenCloses closes: Bool) -> [Action] {
        unsent = (line + [UInt8(ascii: "\n")])[...]
        state = .writing(thenCloses: closes)
        return []
    }

    private mutating func close() -> [Action] {
        guard state != .closed else { return [] }
        state = .closed
        deadline = .distantFuture
        unsent = []
        framing = LineFraming(maximum: 0)
        return [.close]
    }

    /// An answer that says why there is none.
    static func line(_ error: ControlError, id: RequestID?) -> [UInt8] {
        (try? ControlProtocol.encode(ControlAnswer<CloseResult>(.failure(error), id: id))) ?? []
    }
}
