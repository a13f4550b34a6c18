/// A value in memory of its own. An optional one takes 8 bytes in the object that it belongs to, where that has none most
/// of the time.
public final class Boxed<Value> {
    public let value: Value

    public init(_ value: Value) { self.value = value }
}
