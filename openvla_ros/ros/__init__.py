"""What all nodes use: conversion, QoS, parameters, spinning, timers, a worker thread, diagnostics."""
