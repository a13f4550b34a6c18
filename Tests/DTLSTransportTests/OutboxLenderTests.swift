import DTLSEngine
import Testing

@testable import DTLSTransport

/// What one holder has written never leaves over another's socket, whatever is forgotten.
@Suite struct OutboxLenderTests {
    private final class Holder {
        private(set) var sent: [UInt8] = []
        let lender: OutboxLender

        init(_ lender: OutboxLender) { self.lender = lender }

        func lend(_ work: (borrowing OutboxLease) -> Void) { lender.lend(to: self, sending: { send($0) }, work) }

        func send(_ outbox: Outbox) { sent += outbox.datagrams.flatMap { $0 } }
    }

    private let outbox = Outbox()
    private let one: Holder
    private let other: Holder

    init() {
        let lender = OutboxLender(outbox)
        one = Holder(lender)
        other = Holder(lender)
    }

    private static func write(_ byte: UInt8, _ lease: borrowing OutboxLease) {
        withUnsafeBytes(of: byte) { lease.append($0) }
    }

    @Test func `what a holder has written leaves at the end of its lease`() {
        one.lend { lease in
            Self.write(1, lease)
            Self.write(2, lease)
            #expect(one.sent.isEmpty)
        }
        #expect(one.sent == [1, 2] && outbox.isEmpty)
    }

    @Test func `a lease within the same holder's is the same lease`() {
        one.lend { lease in
            Self.write(1, lease)
            one.lend { Self.write(2, $0) }
            #expect(one.sent.isEmpty)
        }
        #expect(one.sent == [1, 2])
    }

    @Test func `a lease within another's sets that one's datagrams aside`() {
        one.lend { lease in
            Self.write(1, lease)
            other.lend { Self.write(9, $0) }
            #expect(other.sent == [9] && one.sent.isEmpty)
            Self.write(2, lease)
        }
        #expect(one.sent == [1, 2] && other.sent == [9])
    }

    @Test func `a holder within its own lease's lease has its own`() {
        one.lend { lease in
            Self.write(1, lease)
            other.lend { lease in
                Self.write(8, lease)
                one.lend { Self.write(2, $0) }
                #expect(one.sent == [2])
                Self.write(9, lease)
            }
        }
        #expect(one.sent == [2, 1] && other.sent == [8, 9])
    }

    @Test func `an outbox that was left full is empty at the next lease`() {
        _ = withUnsafeBytes(of: 7 as UInt8) { outbox.append($0) }
        one.lend { _ in }
        #expect(one.sent.isEmpty && outbox.isEmpty)
    }

    @Test func `a filling outbox is sent before its lease ends`() {
        let large = [UInt8](repeating: 0, count: Outbox.byteCapacity / 2 + 1)
        one.lend { lease in
            Self.write(1, lease)
            lease.sendIfFilling { one.send($0) }
            #expect(one.sent.isEmpty)
            large.withUnsafeBytes { lease.append($0) }
            lease.sendIfFilling { one.send($0) }
            #expect(one.sent.count == large.count + 1 && outbox.isEmpty)
        }
        #expect(one.sent.count == large.count + 1)
    }
}
