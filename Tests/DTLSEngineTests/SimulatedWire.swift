import TestSupport

/// What a wire does to datagrams. Shares are of 100.
struct WireConditions: Sendable {
    /// Datagrams that never arrive.
    var loss = 0
    /// Datagrams that arrive twice.
    var duplication = 0
    /// Datagrams that take up to `reorderingDelay` longer than the others.
    var reordering = 0

    static let perfect = WireConditions()
}

/// Two directions of a network, in virtual time: what was sent arrives, or not, by a schedule that the seed decides.
struct SimulatedWire {
    enum Side: Sendable { case client, server }

    struct Delivery {
        /// Microseconds of the virtual clock.
        let time: Int64
        let order: Int
        let side: Side
        let datagram: [UInt8]
    }

    struct Arrival {
        let datagram: [UInt8]
        /// How much later than usual, in microseconds.
        let later: Int64

        init(_ datagram: [UInt8], later: Int64 = 0) {
            self.datagram = datagram
            self.later = later
        }
    }

    /// Microseconds from one side to the other.
    static let delay: Int64 = 20_000
    /// Microseconds, at most, that a reordered datagram takes longer.
    static let reorderingDelay: Int64 = 50_000

    var conditions: WireConditions
    /// What happens to one datagram, by its number from 0 and the side that it is for: what arrives in its place.
    var interfere: ((Int, Side, [UInt8]) -> [Arrival])?
    /// Everything that was sent, and to whom.
    private(set) var sent: [(side: Side, datagram: [UInt8])] = []
    private var random: SeededGenerator
    private var onTheWay: [Delivery] = []
    private(set) var sentCount = 0
    private(set) var lostCount = 0
    private(set) var largest = 0

    init(_ conditions: WireConditions, seed: UInt64) {
        self.conditions = conditions
        random = SeededGenerator(seed: seed)
    }

    /// Takes a datagram for `side`.
    mutating func send(_ datagram: [UInt8], to side: Side, at now: Int64) {
        // Always the same number of draws, so that a datagram's fate depends on the seed and its place alone.
        let isLost = draw() < conditions.loss
        let isDoubled = draw() < conditions.duplication
        let delays = (0..<2).map { _ in
            let extra = Int64(random.next() % UInt64(Self.reorderingDelay))
            return Self.delay + (draw() < conditions.reordering ? extra : 0)
        }
        largest = max(largest, datagram.count)
        let arrivals = interfere?(sentCount, side, datagram) ?? [Arrival(datagram)]
        sentCount += 1
        sent.append((side, datagram))
        if isLost {
            lostCount += 1
            return
        }
        for delay in delays.prefix(isDoubled ? 2 : 1) {
            for arrival in arrivals {
                onTheWay.append(
                    Delivery(
                        time: now + delay + arrival.later, order: sentCount, side: side, datagram: arrival.datagram))
            }
        }
    }

    private mutating func draw() -> Int { Int(random.next() % 100) }

    private var nextIndex: Int? {
        onTheWay.indices.min { (onTheWay[$0].time, onTheWay[$0].order) < (onTheWay[$1].time, onTheWay[$1].order) }
    }

    /// When the next datagram arrives; `nil`: nothing is on the way.
    var nextArrival: Int64? { nextIndex.map { onTheWay[$0].time } }

    mutating func takeNext() -> Delivery? { nextIndex.map { onTheWay.remove(at: $0) } }
}
