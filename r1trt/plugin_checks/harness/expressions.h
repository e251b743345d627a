// Shape expressions as a builder would hand them to getOutputShapes: constants, named symbols, and operations
// on them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/tensorrt.h"

namespace harness {

// A dimension, written as text; constant only if everything in it is.
class Expression final : public nvinfer1::IDimensionExpr {
 public:
  Expression(std::string text, bool isConstant, int64_t value)
      : impl_(isConstant, value), text_(std::move(text)) {
    mImpl = &impl_;
  }
  ~Expression() noexcept override = default;

  std::string const& text() const { return text_; }

 private:
  class Impl final : public nvinfer1::apiv::VDimensionExpr {
   public:
    Impl(bool isConstant, int64_t value) : isConstant_(isConstant), value_(value) {}
    bool isConstant() const override { return isConstant_; }
    int64_t getConstantValue() const override { return isConstant_ ? value_ : INT64_MIN; }
    bool isSizeTensor() const override { return false; }

   private:
    bool isConstant_;
    int64_t value_;
  };

  Impl impl_;
  std::string text_;
};

// Owns every expression that it makes, as TensorRT's does.
class ExpressionBuilder final : public nvinfer1::IExprBuilder {
 public:
  ExpressionBuilder() : impl_(*this) { mImpl = &impl_; }
  ~ExpressionBuilder() noexcept override = default;

  Expression const* make(std::string text, bool isConstant, int64_t value) {
    made_.push_back(std::make_unique<Expression>(std::move(text), isConstant, value));
    return made_.back().get();
  }
  Expression const* number(int64_t value) { return make(std::to_string(value), true, value); }
  Expression const* symbol(std::string name) { return make(std::move(name), false, 0); }

 private:
  class Impl final : public nvinfer1::apiv::VExprBuilder {
   public:
    explicit Impl(ExpressionBuilder& owner) : owner_(owner) {}

    nvinfer1::IDimensionExpr const* constant(int64_t value) override { return owner_.number(value); }

    nvinfer1::IDimensionExpr const* operation(nvinfer1::DimensionOperation op,
                                              nvinfer1::IDimensionExpr const& first,
                                              nvinfer1::IDimensionExpr const& second) override {
      static constexpr char const* kNames[] = {"+", "*", "max", "min", "-", "==", "<", "floordiv", "ceildiv"};
      auto const& left = static_cast<Expression const&>(first);
      auto const& right = static_cast<Expression const&>(second);
      return owner_.symbol("(" + left.text() + " " + kNames[static_cast<int>(op)] + " " + right.text() + ")");
    }

    nvinfer1::IDimensionExpr const* declareSizeTensor(int32_t output, nvinfer1::IDimensionExpr const&,
                                                      nvinfer1::IDimensionExpr const& upper) override {
      return owner_.symbol("size" + std::to_string(output) +
                           "<=" + static_cast<Expression const&>(upper).text());
    }

   private:
    ExpressionBuilder& owner_;
  };

  Impl impl_;
  std::vector<std::unique_ptr<Expression>> made_;
};

}  // namespace harness
