import LinuxSystem

/// What an unauthenticated peer's datagram looks like: what can be told from a few of its bytes, in a listener and in the
/// kernel alike.
enum DatagramKind: Int, CaseIterable {
    /// A ClientHello without a cookie, in its handshake's first record.
    case firstHello
    /// A ClientHello without a cookie, in a later record: its client has had no answer for a second or more. A number is not
    /// used twice (RFC 6347, section 4.1).
    case repeatedHello
    /// A ClientHello with a cookie, of whatever worth.
    case helloWithCookie
    /// Anything else: protected records, later fragments of a hello.
    case other

    // Places in the datagram (RFC 6347, sections 4.1 and 4.2.2; RFC 5246, section 7.4.1.2).
    private static let epoch = 3
    /// The lower half of the 48 bits of the record's number.
    private static let lowSequence = 9
    private static let messageType = 13
    /// The lower 16 bits: no hello is so long that the upper 8 are not 0.
    private static let fragmentOffset = 20
    /// Its length stands here, and it is followed by the length of the cookie.
    private static let sessionID = 59

    private static let handshake: UInt8 = 22
    private static let clientHello: UInt8 = 1

    /// Nothing is checked but what tells the kinds apart.
    init(of datagram: UnsafeRawBufferPointer) {
        let isHello =
            datagram.count > Self.sessionID + 1 && datagram[0] == Self.handshake
            && datagram[Self.epoch] == 0 && datagram[Self.epoch + 1] == 0
            && datagram[Self.messageType] == Self.clientHello
            && datagram[Self.fragmentOffset] == 0 && datagram[Self.fragmentOffset + 1] == 0
        guard isHello else {
            self = .other
            return
        }
        let cookie = Self.sessionID + 1 + Int(datagram[Self.sessionID])
        if cookie < datagram.count, datagram[cookie] > 0 {
            self = .helloWithCookie
        } else {
            let isFirst = datagram[Self.lowSequence] == 0 && datagram[Self.lowSequence + 1] == 0
            self = isFirst ? .firstHello : .repeatedHello
        }
    }

    /// How many datagrams there were of each kind.
    struct Counts: Equatable {
        private var values = SIMD4<Int>()

        subscript(kind: DatagramKind) -> Int { values[kind.rawValue] }

        var total: Int { values.wrappedSum() }

        var hellos: Int { total - self[.other] }

        @inline(__always)
        mutating func count(_ kind: DatagramKind, _ count: Int = 1) { values[kind.rawValue] &+= count }

        static func &+= (counts: inout Counts, more: Counts) { counts.values &+= more.values }
    }

    /// Which share of each kind, 0 to 1, is let into a socket's queue.
    struct Shares: Equatable {
        private var values = SIMD4<Double>(repeating: 1)

        /// All of all kinds.
        static var all: Shares { Shares() }

        subscript(kind: DatagramKind) -> Double {
            get { values[kind.rawValue] }
            set { values[kind.rawValue] = min(1, max(0, newValue)) }
        }
    }

    /// The program that lets these shares in, and chooses at random.
    static func filter(letting shares: Shares) -> DatagramFilter {
        func end(_ kind: DatagramKind) -> [DatagramFilter.Instruction] {
            let share = shares[kind]
            if share >= 1 { return [.keep] }
            // Of 2^32 numbers, so many are kept.
            return [.loadRandom, .skipUnlessAtLeast(1, UInt32(share * 4_294_967_295)), .drop, .keep]
        }
        var program: [DatagramFilter.Instruction] = end(.repeatedHello)
        program =
            [.loadShort(at: lowSequence), .skipUnlessEqual(end(.firstHello).count, 0)] + end(.firstHello) + program
        program =
            [
                .loadByte(at: sessionID), .copyToIndex, .loadByteBehindIndex(sessionID + 1),
                .skipIfEqual(end(.helloWithCookie).count, 0),
            ] + end(.helloWithCookie) + program
        // From the last condition to the first: each skips what is left of this part.
        let conditions: [(DatagramFilter.Instruction, UInt32)] = [
            (.loadByte(at: 0), UInt32(handshake)), (.loadShort(at: epoch), 0),
            (.loadByte(at: messageType), UInt32(clientHello)), (.loadShort(at: fragmentOffset), 0),
        ]
        for (load, value) in conditions.reversed() {
            program = [load, .skipUnlessEqual(program.count, value)] + program
        }
        let shortest = UInt32(clamping: DatagramFilter.headerSize + sessionID + 2)
        return DatagramFilter([.loadLength, .skipUnlessAtLeast(program.count, shortest)] + program + end(.other))
    }
}
