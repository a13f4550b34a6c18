import LinuxSystem

/// Networks whose peers are served, and networks whose peers are not: the most specific one that a peer's address lies
/// in decides.
///
/// Networks nest, they never overlap in part, so each address family falls into a sorted row of ranges with one answer
/// each. A lookup is one binary search whatever the peer's address is: 10,000 networks take 15 comparisons.
package struct AccessList: Codable, Equatable, Sendable {
    package struct Rule: Equatable, Sendable {
        package let network: NetworkPrefix
        package let allows: Bool

        package init(_ network: NetworkPrefix, allows: Bool) {
            self.network = network
            self.allows = allows
        }
    }

    /// The addresses of one family.
    package struct Ranges: Codable, Equatable, Sendable {
        /// Where each range begins, in ascending order from 0; it ends where the next one begins.
        package private(set) var starts: [UInt128]
        package private(set) var allows: [Bool]

        /// - Parameter rules: of one family, each network once.
        fileprivate init(_ rules: [Rule], otherwise: Bool, _ family: SocketAddress.Family) {
            starts = [0]
            allows = [otherwise]
            let end = NetworkPrefix.lastAddress(family)
            /// The networks that the present place lies in, from the widest to the most specific.
            var open: [Rule] = []
            func close() {
                guard let closed = open.popLast(), closed.network.last < end else { return }
                begin(closed.network.last + 1, open.last?.allows ?? otherwise)
            }
            let sorted = rules.sorted { one, other in
                (one.network.first, one.network.length) < (other.network.first, other.network.length)
            }
            for rule in sorted {
                while let last = open.last, last.network.last < rule.network.first { close() }
                begin(rule.network.first, rule.allows)
                open.append(rule)
            }
            while !open.isEmpty { close() }
        }

        /// Has `answer` hold from `start` on. Of two answers for one start, the later one counts.
        private mutating func begin(_ start: UInt128, _ answer: Bool) {
            if starts.last == start {
                starts.removeLast()
                allows.removeLast()
            }
            guard allows.last != answer else { return }
            starts.append(start)
            allows.append(answer)
        }

        /// Bytes of a range in its coding: where it begins, and whether it is allowed.
        private static let codedSize = 17

        /// The ranges are coded as one run of bytes: a list of 60,000 networks, coded value by value, would hold the
        /// main process up for a fifth of a second at each reload.
        package func encode(to encoder: any Encoder) throws {
            var bytes: [UInt8] = []
            bytes.reserveCapacity(starts.count * Self.codedSize)
            for (start, answer) in zip(starts, allows) {
                withUnsafeBytes(of: start.littleEndian) { bytes.append(contentsOf: $0) }
                bytes.append(answer ? 1 : 0)
            }
            var container = encoder.singleValueContainer()
            try container.encode(bytes)
        }

        /// - Throws: for ranges that ``allows(_:)`` could not search.
        package init(from decoder: any Decoder) throws {
            let container = try decoder.singleValueContainer()
            let bytes = try container.decode([UInt8].self)
            starts = []
            allows = []
            for offset in stride(from: 0, to: bytes.count - bytes.count % Self.codedSize, by: Self.codedSize) {
                let range = bytes[offset..<(offset + Self.codedSize)]
                starts.append(range.dropLast().reversed().reduce(0) { $0 << 8 | UInt128($1) })
                allows.append(range.last == 1)
            }
            guard bytes.count.isMultiple(of: Self.codedSize), bytes.enumerated().allSatisfy(Self.isCanonical),
                starts.first == 0, zip(starts, starts.dropFirst()).allSatisfy(<)
            else {
                throw DecodingError.dataCorruptedError(
                    in: container, debugDescription: "not a row of ranges from 0 on")
            }
        }

        /// Whether a byte of the coding is one that ``encode(to:)`` writes.
        private static func isCanonical(_ offset: Int, _ byte: UInt8) -> Bool {
            offset % codedSize < codedSize - 1 || byte <= 1
        }

        fileprivate func allows(_ bits: UInt128) -> Bool {
            // `low` is a range that begins at `bits` or before, and `high` one that begins after.
            var (low, high) = (0, starts.count)
            while high - low > 1 {
                let middle = (low + high) / 2
                if starts[middle] <= bits { low = middle } else { high = middle }
            }
            return allows[low]
        }
    }

    package let ipv4: Ranges
    package let ipv6: Ranges

    /// - Parameters:
    ///   - rules: each network once.
    ///   - otherwise: the answer for peers that lie in none of the networks.
    package init(_ rules: [Rule], otherwise: Bool) {
        ipv4 = Ranges(rules.filter { $0.network.family == .ipv4 }, otherwise: otherwise, .ipv4)
        ipv6 = Ranges(rules.filter { $0.network.family == .ipv6 }, otherwise: otherwise, .ipv6)
    }

    /// Whether this peer is served. An IPv4 address inside an IPv6 one counts as the IPv4 address.
    package func allows(_ peer: SocketAddress) -> Bool {
        let (family, bits) = peer.number
        return family == .ipv4 ? ipv4.allows(bits) : ipv6.allows(bits)
    }
}

extension NetworkPrefix {
    fileprivate static func lastAddress(_ family: SocketAddress.Family) -> UInt128 {
        family == .ipv4 ? UInt128(UInt32.max) : .max
    }
}
