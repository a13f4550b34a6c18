/// Gives `body` memory on the stack, as `withUnsafeTemporaryAllocation` does, which has typed errors from Swift 6.3 on
/// only.
/// - Parameters:
///   - byteCount: the size of the memory, whose contents are undefined.
///   - alignment: a power of two.
@inlinable @inline(__always)
public func withTemporaryBytes<Value: ~Copyable, Failure: Error>(
    _ byteCount: Int, alignment: Int, _ body: (UnsafeMutableRawBufferPointer) throws(Failure) -> Value
) throws(Failure) -> Value {
    let result: Result<Value, Failure> = withUnsafeTemporaryAllocation(byteCount: byteCount, alignment: alignment) {
        buffer in
        do throws(Failure) { return .success(try body(buffer)) } catch { return .failure(error) }
    }
    return try result.get()
}
