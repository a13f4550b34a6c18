/// Pauses between tries that fail: each is twice as long as the one before, up to a bound.
public struct Backoff: Equatable, Sendable {
    private let shortest: Duration
    private let longest: Duration
    /// The pause that was given last; zero after a success, or before the first failure.
    public private(set) var last = Duration.zero

    public init(from shortest: Duration, to longest: Duration) {
        self.shortest = shortest
        self.longest = longest
    }

    /// A try has failed.
    /// - Returns: how long to wait before the next one.
    public mutating func next() -> Duration {
        last = last == .zero ? shortest : min(last * 2, longest)
        return last
    }

    /// A try has succeeded: the next pause is the shortest.
    public mutating func reset() { last = .zero }
}
