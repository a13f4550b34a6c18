/// What a wire does to datagrams. Shares are of 100.
package struct WireConditions: Sendable {
    /// Datagrams that never arrive.
    package var loss = 0
    /// Datagrams that arrive twice.
    package var duplication = 0
    /// Datagrams that take up to `reorderingDelay` longer than the others.
    package var reordering = 0

    package static let perfect = WireConditions()

    package init(loss: Int = 0, duplication: Int = 0, reordering: Int = 0) {
        self.loss = loss
        self.duplication = duplication
        self.reordering = reordering
    }
}

/// Two directions of a network, in virtual time: what was sent arrives, or not, by a schedule that the seed decides.
package struct SimulatedWire {
    package enum Side: Sendable { case client, server }

    package struct Delivery {
        /// Microseconds of the virtual clock.
        package let time: Int64
        package let order: Int
        package let side: Side
        package let datagram: [UInt8]

        package init(time: Int64, order: Int, side: Side, datagram: [UInt8]) {
            self.time = time
            self.order = order
            self.side = side
            self.datagram = datagram
        }
    }

    package struct Arrival {
        package let datagram: [UInt8]
        /// How much later than usual, in microseconds.
        package let later: Int64

        package init(_ datagram: [UInt8], later: Int64 = 0) {
            self.datagram = datagram
            self.later = later
        }
    }

    /// Microseconds from one side to the other.
    package static let delay: Int64 = 20_000
    /// Microseconds, at most, that a reordered datagram takes longer.
    package static let reorderingDelay: Int64 = 50_000

    package var conditions: WireConditions
    /// What happens to one datagram, by its number from 0 and the side that it is for: what arrives in its place.
    package var interfere: ((Int, Side, [UInt8]) -> [Arrival])?
    /// Everything that was sent, and to whom.
    package private(set) var sent: [(side: Side, datagram: [UInt8])] = []
    private var random: SeededGenerator
    private var onTheWay: [Delivery] = []
    package private(set) var sentCount = 0
    package private(set) var lostCount = 0
    package private(set) var largest = 0

    package init(_ conditions: WireConditions, seed: UInt64) {
        self.conditions = conditions
        random = SeededGenerator(seed: seed)
    }

    /// Takes a datagram for `side`.
    package mutating func send(_ datagram: [UInt8], to side: Side, at now: Int64) {
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
    package var nextArrival: Int64? { nextIndex.map { onTheWay[$0].time } }

    package mutating func takeNext() -> Delivery? { nextIndex.map { onTheWay.remove(at: $0) } }
}
