import LinuxSystem
import Primitives

/// The memory in which the main process says, for each worker, what explains that it asks for signatures. The key process
/// maps it, and no worker does.
final class KeyAllowances: @unchecked Sendable {
    /// More than there are workers, those that drain included. Where there are more, the last place is of several.
    static let places = 4_096
    private static let size = 16
    private let memory: SharedMemory
    private let count: Int

    init() throws(SystemError) {
        memory = try SharedMemory(byteCount: Self.places * Self.size, name: "dtlsd-key-allowances")
        count = Self.places
    }

    /// In the key process.
    init(_ file: consuming FileDescriptor) throws(SystemError) {
        memory = try SharedMemory(file)
        count = memory.bytes.count / Self.size
    }

    /// For the key process.
    func descriptor() throws(SystemError) -> FileDescriptor { try memory.descriptor.duplicate() }

    private func address(_ place: Int) -> UnsafeMutableRawPointer? {
        guard (0..<count).contains(place) else { return nil }
        return memory.bytes.baseAddress.map { $0 + place * Self.size }
    }

    /// A client, or a tunnel's sender, was handed over to the worker. Call it before the worker can know.
    func noteHandOver(_ place: Int, connections: Int) {
        guard let address = address(place) else { return }
        SharedWord.storeRelaxed(UInt64(clamping: connections), address + 8)
        SharedWord.store(SharedWord.loadRelaxed(address) &+ 1, address)
    }

    /// What is known of the worker with this place.
    subscript(place: Int) -> SignatureAllowance.Known {
        guard let address = address(place) else { return SignatureAllowance.Known(handedOver: 0, connections: 0) }
        return SignatureAllowance.Known(
            handedOver: SharedWord.load(address), connections: SharedWord.loadRelaxed(address + 8))
    }

    func setConnections(_ place: Int, _ connections: Int) {
        guard let address = address(place) else { return }
        SharedWord.storeRelaxed(UInt64(clamping: connections), address + 8)
    }
}
